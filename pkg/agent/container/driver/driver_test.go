package driver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/agent/workload/workloadtest"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContainersConform(t *testing.T) {
	t.Parallel()
	const image = "localhost/app:1"
	fake := containertest.NewFake(image)
	workloadtest.Conformance(t, workloadtest.Subject{
		New: func() workload.Driver {
			return driver.New(driver.Config{Runtime: fake, Log: slog.New(slog.DiscardHandler)})
		},
		Score: func(version int) wire.Score {
			return wire.Score{Type: score.TypePodmanV0, Data: fmt.Appendf(nil,
				`{"services":[{"name":"web","image":%q,"args":["version %d"],"volumes":[{"name":"data","mountPath":"/data"}]}]}`, image, version)}
		},
		Bad: wire.Score{Type: score.TypePodmanV0, Data: []byte(`{"services":[{"name":"web"}]}`)},
		Break: func(t *testing.T, ref wire.DeploymentRef) {
			list, err := fake.List(t.Context(), ref)
			for _, c := range list {
				err = errors.Join(err, fake.Stop(t.Context(), c.ID, 0), fake.Remove(t.Context(), c.ID))
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	})
}

// A runtime that does not answer is a condition of the device for the agent, too.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	if !errors.Is(container.ErrUnavailable, workload.ErrUnavailable) || container.ErrUnavailable.Error() != "container runtime unavailable" {
		t.Errorf("it is %v", container.ErrUnavailable)
	}
	fake := containertest.NewFake()
	d := driver.New(driver.Config{Runtime: fake, Log: slog.New(slog.DiscardHandler)})
	if _, err := d.Ready(t.Context()); err != nil || d.Version() == "" {
		t.Errorf("version %q: %v", d.Version(), err)
	}
	fake.SetDown(true)
	_, readyErr := d.Ready(t.Context())
	_, observeErr := d.Observe(t.Context(), wire.DeploymentRef{Namespace: "shop", Name: "web"})
	for _, err := range []error{readyErr, observeErr, d.Wipe(t.Context()), d.Watch(t.Context(), func() {}, nil)} {
		if !errors.Is(err, workload.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := d.Info(); !errors.Is(err, container.ErrUnavailable) || d.Version() == "" {
		t.Errorf("it was of version %q: %v", d.Version(), err)
	}
}

// What the runtime says of itself is asked rarely, and at once when it began anew.
func TestInfoIsAskedAgainWhenTheRuntimeBeganAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := containertest.NewFake()
		d := driver.New(driver.Config{
			Runtime: fake, Log: slog.New(slog.DiscardHandler),
			Space: func() (facts.FileSystem, error) { return facts.FileSystem{Size: 100, Used: 20}, nil },
		})
		controllers := func() []string {
			if _, err := d.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			info, err := d.Info()
			if err != nil || info.StoreUsed != 20 {
				t.Errorf("it uses %d: %v", info.StoreUsed, err)
			}
			return info.Controllers
		}
		controllers()
		fake.SetControllers("memory")
		if got := controllers(); len(got) > 0 {
			t.Errorf("it was asked again: %v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- d.Watch(ctx, func() { close(ready) }, func(wire.DeploymentRef) {}) }()
		<-ready
		if got := controllers(); len(got) != 1 {
			t.Errorf("after it began anew: %v", got)
		}
		fake.SetControllers("memory", "cpu")
		time.Sleep(10 * time.Minute)
		if got := controllers(); len(got) != 2 {
			t.Errorf("after ten minutes: %v", got)
		}
		cancel()
		<-done
	})
}
