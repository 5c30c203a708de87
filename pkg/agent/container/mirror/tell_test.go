package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container/mirror"
)

// registries is podman that begins anew at each change.
type registries struct {
	mu sync.Mutex // guards what follows
	// told are those of each time.
	told [][]string
	// during is called while it begins anew, by inside pulls, at most most.
	during func()
	inside int
	most   int
}

func (p *registries) Mirror(_ context.Context, _ string, registries []string) (bool, error) {
	p.mu.Lock()
	p.inside++
	p.most = max(p.most, p.inside)
	during := p.during
	p.mu.Unlock()
	if during != nil {
		during()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inside--
	p.told = append(p.told, slices.Clone(registries))
	return false, nil
}

func (p *registries) last() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told[len(p.told)-1]
}

func telling(t *testing.T, p *registries, wanted ...string) *device {
	t.Helper()
	return newDevice(t, nil, func(c *mirror.Config) {
		c.Podman, c.Wanted = p, func() []string { return wanted }
	})
}

func TestPodmanIsToldOfAllAtOnce(t *testing.T) {
	t.Parallel()
	p := &registries{}
	d := telling(t, p, "c.example.com/x:1", "b.example.com/x:1", "c.example.com/y:1", "localhost/x:1", "no name", "a.example.com/x:1")
	for _, image := range []string{"a.example.com/x:1", "b.example.com/x:1", "c.example.com/y:1"} {
		_, err := d.Begin(t.Context(), image, nil)
		must(t, err)
	}
	want := [][]string{{"a.example.com", "b.example.com", "c.example.com"}}
	if diff := cmp.Diff(want, p.told); diff != "" {
		t.Error(diff)
	}
}

// Two pulls from new registries tell podman in turn, and it knows both in the end.
func TestPullsTellPodmanInTurn(t *testing.T) {
	t.Parallel()
	meet := make(chan struct{})
	p := &registries{during: func() {
		select {
		case meet <- struct{}{}:
		case <-meet:
		case <-time.After(300 * time.Millisecond):
		}
	}}
	d := telling(t, p)
	var pulls sync.WaitGroup
	for _, registry := range []string{"a.example.com", "b.example.com"} {
		pulls.Go(func() {
			if _, err := d.Begin(t.Context(), registry+"/x:1", nil); err != nil {
				t.Error(err)
			}
		})
	}
	pulls.Wait()
	if p.most > 1 {
		t.Error("podman is told by two at one time")
	}
	if last := slices.Sorted(slices.Values(p.last())); !slices.Equal(last, []string{"a.example.com", "b.example.com"}) {
		t.Errorf("at last podman knows %q", last)
	}
}

// Who waits for another pull's registry waits no longer than it wants.
func TestAPullThatEndsWhileAnotherTellsPodman(t *testing.T) {
	t.Parallel()
	hang, begun := make(chan struct{}), make(chan struct{})
	var second atomic.Bool
	p := &registries{during: func() {
		if !second.Swap(true) {
			close(begun)
			<-hang
		}
	}}
	d := telling(t, p)
	first := make(chan error)
	go func() {
		_, err := d.Begin(t.Context(), "a.example.com/x:1", nil)
		first <- err
	}()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Begin(ctx, "b.example.com/x:1", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	close(hang)
	must(t, <-first)
}

// Registries that nothing wants any more make room, and those that are wanted have it.
func TestInventedRegistriesFillNothing(t *testing.T) {
	t.Parallel()
	p := &registries{}
	d := telling(t, p, "wanted.example.com/x:1")
	for n := range 100 {
		_, err := d.Begin(t.Context(), fmt.Sprintf("r%d.example.com/x:1", n), nil)
		must(t, err)
		if last := p.last(); len(last) > 64 || !slices.Contains(last, "wanted.example.com") {
			t.Fatalf("podman is told of %d: %q", len(last), last)
		}
	}
	if last := p.last(); last[len(last)-1] != "r99.example.com" || slices.Contains(last, "r36.example.com") || !slices.Contains(last, "r37.example.com") {
		t.Errorf("podman is told of %q", last)
	}

	var many []string
	for n := range 100 {
		many = append(many, fmt.Sprintf("r%02d.example.com/x:1", n))
	}
	p = &registries{}
	d = telling(t, p, many...)
	_, err := d.Begin(t.Context(), many[0], nil)
	must(t, err)
	if _, err := d.Begin(t.Context(), many[99], nil); err == nil || !strings.Contains(err.Error(), "64 registries") {
		t.Errorf("error is %v", err)
	}
	if len(p.told) != 1 || len(p.told[0]) != 64 {
		t.Errorf("podman was told %d times", len(p.told))
	}
}
