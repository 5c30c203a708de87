package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"fleet.nationtech.io/fleet/pkg/agent/queue"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/dirty"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// tick is the time between two looks at everything, for what no event told. What a
	// look finds that has to be certain is looked at again some seconds later, and then
	// a minute has not passed yet.
	tick = 50 * time.Second
	// Bounds of the pause before a driver's events are asked for again.
	minWatchPause = time.Second
	maxWatchPause = 30 * time.Second
	// tickTimeout bounds one look, so that a driver that hangs is noticed.
	tickTimeout = 30 * time.Second
)

// watcher turns the drivers' events into passes, and looks at everything when a
// driver comes back and at every tick.
type watcher struct {
	drivers    []*watched
	desired    *desired
	conditions *conditions
	informer   *informer
	queue      *queue.Queue[wire.DeploymentRef]
	health     func() []wire.Condition // may be nil
	store      *store.Store
	again      chan struct{} // to look at once; capacity 1
	looked     func()        // called after each look
	log        *slog.Logger

	pressure level // of disks; of the tick alone
}

// watched is a driver and what is known of it.
type watched struct {
	workload.Driver

	about workload.About
	// ready: it could work when it was last heard of.
	ready atomic.Bool
	// found are the Deployments that it had something of at the last look which it
	// answered; of the tick alone.
	found []wire.DeploymentRef
	// stores are the file systems that it named then.
	stores []workload.Store
}

func (w *watcher) run(ctx context.Context) {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	back := make(chan struct{}, 1)
	var follows sync.WaitGroup
	defer follows.Wait()
	for _, d := range w.drivers {
		follows.Go(func() { w.follow(ctx, d, back) })
		if r, ok := d.Driver.(workload.Runner); ok {
			follows.Go(func() { r.Run(ctx, w.queue.Soon) })
		}
	}
	for {
		w.look(ctx)
		w.looked()
		select {
		case <-ctx.Done():
			return
		case <-back:
		case <-w.again:
		case <-ticks.C:
		}
	}
}

// follow keeps the stream of a driver's events open. It signals back whenever the
// driver answers again: what happened meanwhile has to be looked for.
func (w *watcher) follow(ctx context.Context, d *watched, back chan struct{}) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = minWatchPause, maxWatchPause
	for ctx.Err() == nil {
		err := d.Watch(ctx, func() {
			pauses.Reset()
			dirty.Signal(back)
		}, w.queue.Soon)
		if ctx.Err() != nil {
			return
		}
		w.lost(d, err)
		timer := time.NewTimer(pauses.NextBackOff())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// lost shows that a driver cannot work. A stream that merely ended is opened
// again before anybody needs to know.
func (w *watcher) lost(d *watched, err error) {
	w.log.Warn("the events of a driver are lost", "driver", d.about.Name, "error", err)
	if errors.Is(err, workload.ErrUnavailable) {
		w.note(d, "", err)
	}
}

// note shows whether a driver can work, or what it cannot do, and reports whether it can
// work again.
func (w *watcher) note(d *watched, lacks string, err error) (back bool) {
	before := d.ready.Swap(err == nil)
	w.conditions.ready(d.about.Condition, lacks, err)
	return err == nil && !before
}

// look looks at what every driver has, and at the device.
func (w *watcher) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tickTimeout)
	defer cancel()
	forgotten := w.desired.look()
	for _, d := range w.drivers {
		d.found = slices.DeleteFunc(d.found, func(ref wire.DeploymentRef) bool { return forgotten[ref] })
	}
	looks := w.ask(ctx)
	w.checkHealth()
	answered, run := false, w.queue.Soon
	for i, d := range w.drivers {
		if w.note(d, looks[i].Note, looks[i].err) {
			run = w.queue.Now // whatever failed for want of it
		}
		if err := looks[i].err; err != nil {
			w.log.Debug("a driver cannot work", "driver", d.about.Name, "error", err)
			continue
		}
		answered, d.found, d.stores = true, looks[i].Deployments, looks[i].Stores
	}
	w.checkDisk() // a driver that cannot work may lack space
	w.informer.refresh()
	if !answered && len(w.drivers) > 0 {
		return
	}
	for _, ref := range append(w.desired.see(w.found()), w.desired.refs()...) {
		run(ref)
	}
}

// answer is what a driver said.
type answer struct {
	workload.Look

	err error
}

// ask asks all drivers beside each other: one may hang.
func (w *watcher) ask(ctx context.Context) []answer {
	answers := make([]answer, len(w.drivers))
	var asked sync.WaitGroup
	for i, d := range w.drivers {
		asked.Go(func() { answers[i].Look, answers[i].err = d.Ready(ctx) })
	}
	asked.Wait()
	return answers
}

// found are the Deployments that any driver has something of.
func (w *watcher) found() map[wire.DeploymentRef]bool {
	all := map[wire.DeploymentRef]bool{}
	for _, d := range w.drivers {
		for _, ref := range d.found {
			all[ref] = true
		}
	}
	return all
}

// checkHealth sets what the agent does not find out by its own work.
func (w *watcher) checkHealth() {
	if w.health == nil {
		return
	}
	for _, c := range w.health() {
		w.conditions.set(c.Type, c.Status, c.Reason, c.Message)
	}
}
