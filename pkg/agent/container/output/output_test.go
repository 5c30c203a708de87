package output_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
	"fleet.nationtech.io/fleet/pkg/agent/container/output"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const image = "localhost/app:1"

var (
	ref   = wire.DeploymentRef{Namespace: "shop", Name: "web"}
	front = services.Name{DeploymentRef: ref, Service: "front"}
)

// device has a service that writes all the time.
type device struct {
	t    *testing.T
	fake *containertest.Fake
	// Runtime is what is read from; fake unless a test replaces it.
	container.Runtime

	mu      sync.Mutex // guards what follows
	lines   []string
	notices []string
}

func newDevice(t *testing.T) *device {
	fake := containertest.NewFake(image)
	return &device{t: t, fake: fake, Runtime: fake}
}

func (d *device) spec() *container.Spec {
	return &container.Spec{Ref: ref, Service: "front", Image: image, Command: []string{containertest.TalkCommand}}
}

func (d *device) create(spec *container.Spec) (id string) {
	d.t.Helper()
	id, err := d.fake.Create(d.t.Context(), spec)
	if err = errors.Join(err, d.fake.Start(d.t.Context(), id)); err != nil {
		d.t.Fatal(err)
	}
	return id
}

func (d *device) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) source() output.Source {
	return output.Source{Runtime: d, Notice: func(line string) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.notices = append(d.notices, line)
	}}
}

// follow follows the output until the test ends.
func (d *device) follow() {
	ctx, cancel := context.WithCancel(d.t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- d.source().Follow(ctx, front, container.LogOptions{Tail: 2}, func(p container.Piece) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.lines = append(d.lines, string(p.Text))
			return nil
		})
	}()
	d.t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			d.t.Errorf("it ended with %v", err)
		}
	})
}

// take returns the lines that came since it was last called, once everything rests.
func (d *device) take() (lines, notices []string) {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	lines, notices, d.lines, d.notices = d.lines, d.notices, nil, nil
	return lines, notices
}

// expect checks that lines are numbered from one to another, each once.
func (d *device) expect(what string, lines []string, first, last int) {
	d.t.Helper()
	var want []string
	for n := first; n <= last; n++ {
		want = append(want, fmt.Sprintln("line", n))
	}
	if !slices.Equal(lines, want) {
		d.t.Errorf("%s: got %d lines such as %q, want lines %d to %d", what, len(lines), lines[:min(len(lines), 3)], first, last)
	}
}

// What is followed goes on with each next run, in the same container or another, and no
// line is lost or comes twice.
func TestFollow(t *testing.T) {
	t.Parallel()
	for name, deaf := range map[string]bool{"podman notices the end of a run": false, "it does not": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t)
				if deaf {
					d.Runtime = deafRuntime{d.fake}
				}
				id := d.create(d.spec())
				time.Sleep(100 * time.Millisecond)
				d.follow()
				time.Sleep(time.Second + 10*time.Millisecond)
				lines, notices := d.take()
				d.expect("the first run", lines, 3, 4+50)
				if len(notices) > 0 {
					t.Errorf("told %q", notices)
				}

				d.fake.Exit("shop_web_front", 3)
				time.Sleep(10 * time.Second)
				lines, notices = d.take()
				if len(lines) > 1 || !slices.Equal(notices, []string{"service shop/web/front ended with exit code 3: waiting for it to run again"}) {
					t.Errorf("after its end: %q, told %q", lines, notices)
				}
				d.must(d.fake.Start(t.Context(), id))
				time.Sleep(10*time.Second + 10*time.Millisecond)
				lines, _ = d.take()
				d.expect("the next run", lines, 0, 499)

				// A replacement: the next container runs before the previous one is gone.
				d.fake.Exit("shop_web_front", 143)
				next := d.create(d.spec().At(container.StageNext))
				time.Sleep(time.Second)
				d.must(errors.Join(d.fake.Remove(t.Context(), id), d.fake.Rename(t.Context(), next, "shop_web_front")))
				time.Sleep(9*time.Second + 10*time.Millisecond)
				lines, _ = d.take()
				if len(lines) > 0 && lines[0] == "line 500\n" {
					lines = lines[1:] // the last of the previous one
				}
				d.expect("the next container", lines, 0, 499)

				d.must(errors.Join(d.fake.Stop(t.Context(), next, 0), d.fake.Remove(t.Context(), next)))
				time.Sleep(10 * time.Second)
				if _, notices := d.take(); len(notices) != 1 || !strings.Contains(notices[0], "has no container") {
					t.Errorf("without a container: told %q", notices)
				}
				d.fake.SetDown(true)
				time.Sleep(10 * time.Second)
				if _, notices := d.take(); len(notices) != 1 || !strings.Contains(notices[0], "unavailable") {
					t.Errorf("without a runtime: told %q", notices)
				}
				d.fake.SetDown(false)
				d.create(d.spec())
				time.Sleep(5 * time.Second)
				if lines, _ := d.take(); len(lines) < 150 {
					t.Errorf("when it is back: %d lines", len(lines))
				}
			})
		})
	}
}

// deafRuntime does not notice that a container ended while its output is followed.
type deafRuntime struct{ *containertest.Fake }

func (r deafRuntime) Logs(ctx context.Context, id string, o container.LogOptions, sink func(container.Piece) error) error {
	err := r.Fake.Logs(ctx, id, o, sink)
	if o.Follow && err == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func TestFollowEndsWithItsReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		d.create(d.spec())
		err := d.source().Follow(t.Context(), front, container.LogOptions{Tail: -1}, func(container.Piece) error { return syscall.EPIPE })
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("got %v", err)
		}
		d.fake.SetDown(true)
		if err := d.source().Follow(t.Context(), front, container.LogOptions{}, nil); !errors.Is(err, container.ErrUnavailable) {
			t.Errorf("without a runtime: %v", err)
		}
	})
}

func TestRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t)
		if _, err := d.source().Find(t.Context(), "front"); !errors.Is(err, services.ErrUnknown) {
			t.Errorf("without a container: %v", err)
		}
		if err := d.source().Read(t.Context(), front, container.LogOptions{}, nil); !errors.Is(err, output.ErrNoContainer) {
			t.Errorf("without a container: %v", err)
		}
		d.create(d.spec())
		time.Sleep(110 * time.Millisecond)
		if name, err := d.source().Find(t.Context(), "web/front"); name != front || err != nil {
			t.Errorf("found %v: %v", name, err)
		}
		var lines []string
		d.must(d.source().Read(t.Context(), front, container.LogOptions{Tail: 3, Follow: true}, func(p container.Piece) error {
			lines = append(lines, string(p.Text))
			return nil
		}))
		d.expect("what there is", lines, 2, 4)
	})
}
