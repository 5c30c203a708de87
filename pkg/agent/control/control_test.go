package control_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fake struct {
	status  control.Status
	confirm error
	restart func(context.Context, []services.Name) error
}

func (f fake) Restart(ctx context.Context, names []services.Name) error {
	return f.restart(ctx, names)
}

func (f fake) Status() control.Status { return f.status }

func (f fake) ConfirmEpoch() (control.Confirmation, error) {
	return control.Confirmation{Epoch: "e2", Leaving: []wire.DeploymentRef{{Namespace: "a", Name: "b"}}}, f.confirm
}

// serve serves a fake agent in a directory until the test ends.
func serve(t *testing.T, dir string, agent control.Agent) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, dir, agent, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := control.ReadStatus(ctx, dir); !errors.Is(err, control.ErrNotRunning) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("nothing listens")
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "control.sock"), nil, 0o600); err != nil { // of an agent that was killed
		t.Fatal(err)
	}
	want := control.Status{
		Device: "pi-1", Connected: true, Manifest: wire.Version{Epoch: "e", Term: 1, Seq: 2},
		Conditions:  []wire.Condition{{Type: wire.ConditionPodmanReady, Status: wire.ConditionTrue}},
		Deployments: []wire.DeploymentState{{DeploymentRef: wire.DeploymentRef{Namespace: "a", Name: "b"}, Phase: wire.PhaseRunning}},
	}
	serve(t, dir, fake{status: want})
	got, err := control.ReadStatus(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConfirmEpoch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	serve(t, dir, fake{})
	got, err := control.ConfirmEpoch(t.Context(), dir)
	if err != nil || got.Epoch != "e2" || len(got.Leaving) != 1 {
		t.Errorf("got %+v: %v", got, err)
	}
	failing := t.TempDir()
	serve(t, failing, fake{confirm: errors.New("disk full")})
	if _, err := control.ConfirmEpoch(t.Context(), failing); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("got %v", err)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	front := services.Name{DeploymentRef: wire.DeploymentRef{Namespace: "shop", Name: "web"}, Service: "front"}
	left := make(chan error, 1)
	serve(t, dir, fake{restart: func(ctx context.Context, names []services.Name) error {
		switch {
		case len(names) == 1 && names[0] == front:
			return nil
		case len(names) == 0:
			<-ctx.Done()
			left <- ctx.Err()
		}
		return errors.New("port in use")
	}})
	if err := control.Restart(t.Context(), dir, []services.Name{front}); err != nil {
		t.Error(err)
	}
	if err := control.Restart(t.Context(), dir, []services.Name{front, front}); err == nil || !strings.Contains(err.Error(), "port in use") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := control.Restart(ctx, dir, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := <-left; err == nil {
		t.Error("the agent did not hear that nobody waits any more")
	}
	if err := control.Restart(t.Context(), t.TempDir(), nil); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("without an agent: %v", err)
	}
}

// An agent of before this command does not know it.
func TestAnEarlierAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until it is closed below
	}()
	defer func() { _ = server.Close(); <-done }()
	if err := control.Restart(t.Context(), dir, nil); err == nil || !strings.Contains(err.Error(), "systemctl restart fleet-agent") {
		t.Errorf("got %v", err)
	}
}

func TestNoAgent(t *testing.T) {
	t.Parallel()
	if _, err := control.ReadStatus(t.Context(), t.TempDir()); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}
