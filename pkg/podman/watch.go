package podman

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// settle is what podman has to note the end of a container after the kernel told of it. The
// end of its monitor says that podman did.
const settle = 300 * time.Millisecond

// errUntold: the kernel does not tell of everything.
var errUntold = errors.New("control groups don't tell of all containers")

// Watch implements container.Runtime: by control groups, or by podman's own events where
// those don't tell enough.
func (c *Client) Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error {
	kernel, err := c.scopes.open(c.find())
	if err != nil {
		return c.watchEvents(ctx, ready, changed)
	}
	defer c.scopes.close()
	if err := c.ping(ctx); err != nil {
		return fmt.Errorf("watching containers: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	held := make(chan struct{})
	defer func() { cancel(nil); <-held }()
	go func() {
		defer close(held)
		err := c.hold(ctx)
		if errors.Is(err, errUnheld) {
			c.scopes.giveUp()
		}
		cancel(err)
	}()
	ready()
	w := watch{Client: c, changed: changed, due: map[string]time.Time{}, pace: rate.NewLimiter(maxEvents, maxEvents)}
	w.run(ctx, kernel)
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("watching containers: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("watching containers: %w", errUntold)
}

// watch turns what the kernel tells of control groups into changes of Deployments.
type watch struct {
	*Client

	changed func(wire.DeploymentRef)
	// due is when podman will have noted that a container ended.
	due  map[string]time.Time
	pace *rate.Limiter
}

// run ends with ctx, and when the kernel cannot tell any more.
func (w *watch) run(ctx context.Context, kernel *fsnotify.Watcher) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-kernel.Errors:
			return
		case event, open := <-kernel.Events:
			if !open || w.pace.Wait(ctx) != nil {
				return
			}
			w.take(ctx, event)
		case <-w.scopes.late:
			ids, blind := w.scopes.missed()
			if blind {
				return
			}
			for _, id := range ids {
				w.due[id] = time.Now().Add(settle)
			}
		case <-timer.C:
		}
		if next := w.tell(ctx); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// tell tells of those that are due, and returns when the next one is.
func (w *watch) tell(ctx context.Context) (next time.Time) {
	now := time.Now()
	for id, at := range w.due {
		switch {
		case !at.After(now):
			w.now(ctx, id)
		case next.IsZero() || at.Before(next):
			next = at
		}
	}
	return next
}

// now tells that something happened to a container.
func (w *watch) now(ctx context.Context, id string) {
	delete(w.due, id)
	w.scopes.changed()
	ref, known := w.scopes.owner(id)
	if !known {
		ref, known = w.ownerOf(ctx, id)
	}
	if known {
		w.changed(ref)
	}
}

// take takes what the kernel tells.
func (w *watch) take(ctx context.Context, event fsnotify.Event) {
	name, err := filepath.Rel(w.scopes.root, event.Name)
	if err != nil {
		return
	}
	base := path.Base(name)
	s, isScope := parseScope(base)
	switch {
	case base == eventsFile:
		if s, ok := parseScope(path.Base(path.Dir(name))); ok {
			w.due[s.id] = time.Now().Add(settle)
		}
	case event.Has(fsnotify.Remove):
		w.scopes.left(name)
		// The monitor, which notes how the container ended, ends after it.
		if _, noting := w.due[s.id]; isScope && (s.monitor || !noting) {
			w.now(ctx, s.id)
		}
	case event.Has(fsnotify.Create) && isScope && !s.monitor:
		w.now(ctx, s.id)
	case event.Has(fsnotify.Create) && strings.HasSuffix(base, ".slice"):
		for _, id := range w.scopes.came(name) {
			w.now(ctx, id)
		}
	}
}

// ownerOf asks podman to whom a container belongs.
func (c *Client) ownerOf(ctx context.Context, id string) (ref wire.DeploymentRef, ok bool) {
	var data inspection
	inspect := request{method: http.MethodGet, path: "/containers/%s/json", values: []string{id}, limit: maxInspection}
	if c.call(ctx, inspect, &data) != nil {
		return ref, false // it is gone, or podman does not answer: then the hold ends, too
	}
	return container.ParseLabelValue(data.Config.Labels[container.LabelDeployment])
}
