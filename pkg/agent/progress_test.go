package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// way is a mirror, and a pull by way of it, that bring so many bytes a second.
type way struct {
	total, speed int64
	// hung keeps whoever asks for the progress waiting; nil for nobody.
	hung chan struct{}

	mu    sync.Mutex // guards begun
	begun time.Time
	// wanted are the images that are wanted.
	wanted func() []string
}

func (w *way) Serve(wanted func() []string) { w.wanted = wanted }

func (w *way) Begin(context.Context, string, *container.Login, func(context.Context, int64) error) (driver.Transfer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun = time.Now()
	return w, nil
}

func (w *way) Progress() (brought, total int64) {
	if w.hung != nil {
		<-w.hung
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return min(w.total, int64(time.Since(w.begun).Seconds()*float64(w.speed))), w.total
}

func (*way) Login() container.Login { return container.Login{} }
func (*way) Problem() error         { return nil }
func (*way) End(bool)               {}

// fetches has the device pull an image of a size, in bytes, at a speed.
func (d *device) fetches(total, speed int64) {
	d.mirror = &way{total: total, speed: speed}
	d.podman.PullFunc = func(ctx context.Context, _ string) error {
		select {
		case <-time.After(time.Duration(total/speed) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d.restart()
}

// said are the texts of progress that the server was told of, in order, without repetitions.
func (g *gateway) said() (texts []string) {
	g.look(func() { texts = slices.Compact(slices.Clone(g.progress)) })
	return texts
}

func TestProgressOfPulls(t *testing.T) {
	const megabyte = 1_000_000
	told := func(parts ...int) []string {
		list := []string{""}
		for _, mb := range parts {
			list = append(list, fmt.Sprintf("pulling front: %d of 120 MB", mb))
		}
		return append(list, "")
	}
	for name, tc := range map[string]struct {
		speed int64
		took  time.Duration
		want  []string
	}{
		"quick":        {speed: 20 * megabyte, took: time.Minute, want: []string{""}},
		"a minute":     {speed: 2_100_000, took: 2 * time.Minute, want: told(21, 42, 63, 84, 105)},
		"half an hour": {speed: megabyte / 15, took: 40 * time.Minute, want: told(1, 13, 26, 39, 51, 64, 77, 89, 102, 115)},
	} {
		t.Run(name, func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.fetches(120*megabyte, tc.speed)
				d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/new:1")}})
				d.pass(tc.took)
				d.expectPhase(web, wire.PhaseRunning, "")
				if diff := cmp.Diff(tc.want, d.gateway.said()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// A mirror is told of all images at once that Deployments want, and of none that none wants.
func TestAMirrorKnowsWhatIsWanted(t *testing.T) {
	onDevice(t, func(d *device) {
		d.fetches(1000, 1000)
		for _, want := range [][]string{{"localhost/a:1", "localhost/b:1"}, {"localhost/a:1"}} {
			all := services{}
			for _, image := range want {
				all[image[len("localhost/"):][:1]] = fromImage(image)
			}
			d.gateway.issue("e1", deployments{web: all})
			d.pass(time.Minute)
			if diff := cmp.Diff(want, d.mirror.(*way).wanted()); diff != "" {
				t.Error(diff)
			}
		}
	})
}

// Who cannot tell how far a pull is says that there is one, once. An error says for whom it
// was, and ends the progress.
func TestProgressWithoutFigures(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.PullFunc = func(ctx context.Context, _ string) error {
			select {
			case <-time.After(5 * time.Minute):
				return errors.New("podman's words")
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/new:1"), "back": fromImage("localhost/new:1")}})
		d.pass(4 * time.Minute)
		d.expectPhase(web, wire.PhasePending, "")
		if diff := cmp.Diff([]string{"", "pulling back, front"}, d.gateway.said()); diff != "" {
			t.Error(diff)
		}
		d.pass(time.Minute + 2*time.Second) // a report may wait for a second
		d.expectPhase(web, wire.PhaseFailed, "services back, front: podman's words")
		if diff := cmp.Diff([]string{"", "pulling back, front", ""}, d.gateway.said()); diff != "" {
			t.Error(diff)
		}
	})
}

// Who tells how far a pull is may hang: neither that pull waits for it, nor another one, nor
// what is done afterwards; and what it says too late is not reported.
func TestProgressThatHangs(t *testing.T) {
	onDevice(t, func(d *device) {
		d.fetches(1200, 20) // a minute
		hung := make(chan struct{})
		goOn := sync.OnceFunc(func() { close(hung) })
		defer goOn()
		d.mirror.(*way).hung = hung
		d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/new:1")}})
		d.pass(30 * time.Second)
		go d.driver.Activity() // as fleet-agent status asks for it
		d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/new:1")}, api: {"front": fromImage("localhost/other:1")}})
		d.pass(2 * time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectPhase(api, wire.PhaseRunning, "")
		goOn()
		d.pass(time.Minute)
		if diff := cmp.Diff([]string{""}, d.gateway.said()); diff != "" {
			t.Error(diff)
		}
	})
}
