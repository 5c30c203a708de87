package workload

import (
	"context"
	"sync"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Watchers are those who watch a driver that sees what it does itself. The zero value has
// none. Its methods may be called concurrently.
type Watchers struct {
	mu  sync.Mutex // guards all
	all map[chan wire.DeploymentRef]bool
}

// Watch is Driver.Watch: it tells of what Tell is told of.
func (w *Watchers) Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error {
	const room = 64 // changes that a watcher may lag behind
	told := make(chan wire.DeploymentRef, room)
	w.mu.Lock()
	if w.all == nil {
		w.all = map[chan wire.DeploymentRef]bool{}
	}
	w.all[told] = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, told)
	}()
	ready()
	for {
		select {
		case ref := <-told:
			changed(ref)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Tell tells all watchers that a Deployment changed.
func (w *Watchers) Tell(ref wire.DeploymentRef) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for told := range w.all {
		select {
		case told <- ref:
		default: // a watcher that is this far behind has enough to look at
		}
	}
}
