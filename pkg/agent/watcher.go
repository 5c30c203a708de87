package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/queue"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// tick is the time between two looks at everything, for what no event told.
	tick = time.Minute
	// Bounds of the pause before podman's events are asked for again.
	minWatchPause = time.Second
	maxWatchPause = 30 * time.Second
	// tickTimeout bounds one look, so that a podman that hangs is noticed.
	tickTimeout = 30 * time.Second
	// A file system with less than lowSpace of its size free is nearly full, until
	// more than enoughSpace is free.
	lowSpace, enoughSpace = 0.10, 0.12
)

// watcher turns podman's events into passes, and looks at everything when
// podman comes back and at every tick.
type watcher struct {
	runtime    container.Runtime
	desired    *desired
	conditions *conditions
	informer   *informer
	queue      *queue.Queue[wire.DeploymentRef]
	mounts     *mounts
	health     func(container.Info, error) []wire.Condition // may be nil
	dir        string                                       // the state directory
	again      chan struct{}                                // to look at once; capacity 1
	log        *slog.Logger

	pressed bool // disk pressure; of the tick alone
}

func (w *watcher) run(ctx context.Context) {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	back := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.follow(ctx, back)
	}()
	defer func() { <-ended }()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-back:
		case <-w.again:
		case <-ticks.C:
		}
	}
}

// follow keeps the stream of events open. It signals back whenever podman
// answers again: what happened meanwhile has to be looked for.
func (w *watcher) follow(ctx context.Context, back chan struct{}) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = minWatchPause, maxWatchPause
	for ctx.Err() == nil {
		err := w.runtime.Watch(ctx, func() {
			pauses.Reset()
			signal(back)
		}, w.queue.Soon)
		if ctx.Err() != nil {
			return
		}
		w.lost(err)
		timer := time.NewTimer(pauses.NextBackOff())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// lost shows that podman does not answer. A stream that merely ended is opened
// again before anybody needs to know.
func (w *watcher) lost(err error) {
	w.log.Warn("podman's events are lost", "error", err)
	if errors.Is(err, container.ErrUnavailable) {
		w.conditions.set(wire.ConditionPodmanReady, wire.ConditionFalse, reasonPodmanUnavailable, err.Error())
	}
}

// look looks at every container and at the device.
func (w *watcher) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tickTimeout)
	defer cancel()
	info, err := w.runtime.Info(ctx)
	w.checkHealth(info, err)
	var list []container.Container
	if err == nil {
		list, err = w.runtime.List(ctx, wire.DeploymentRef{})
	}
	if err != nil {
		w.log.Debug("podman does not answer", "error", err)
		w.conditions.set(wire.ConditionPodmanReady, wire.ConditionFalse, reasonPodmanUnavailable, err.Error())
		return
	}
	run := w.queue.Soon
	if !w.conditions.is(wire.ConditionPodmanReady) {
		run = w.queue.Now // whatever failed for want of podman
	}
	w.conditions.set(wire.ConditionPodmanReady, wire.ConditionTrue, reasonPodmanAnswers, "")
	w.informer.podman(info.Version)
	w.checkDisk(info)
	w.mounts.forbid(info.StoreRoot)
	w.mounts.see(list)
	seen := map[wire.DeploymentRef]bool{}
	for _, c := range list {
		seen[c.Ref] = true
	}
	for _, ref := range append(w.desired.see(seen), w.desired.refs()...) {
		run(ref)
	}
}

// checkHealth sets what the agent does not find out by its own work.
func (w *watcher) checkHealth(info container.Info, err error) {
	if w.health == nil {
		return
	}
	for _, c := range w.health(info, err) {
		w.conditions.set(c.Type, c.Status, c.Reason, c.Message)
	}
}

// checkDisk sets the condition DiskPressure.
func (w *watcher) checkDisk(info container.Info) {
	full := nearlyFull("the image store", info.StoreSize, info.StoreUsed, w.pressed)
	if d, err := facts.Disk(w.dir); err == nil && full == "" {
		full = nearlyFull(w.dir, d.Size, d.Used, w.pressed)
	}
	w.pressed = full != ""
	if w.pressed {
		w.conditions.set(wire.ConditionDiskPressure, wire.ConditionTrue, reasonNearlyFull, full)
		return
	}
	w.conditions.set(wire.ConditionDiskPressure, wire.ConditionFalse, reasonSpaceLeft, "")
}

// nearlyFull names a file system that has too little space left, or returns "".
// It gives no figures: they would change with every look.
func nearlyFull(name string, size, used uint64, already bool) string {
	limit := lowSpace
	if already {
		limit = enoughSpace
	}
	if size == 0 || float64(size-min(used, size)) >= limit*float64(size) {
		return ""
	}
	return fmt.Sprintf("less than %.0f %% of the file system of %s is free", 100*enoughSpace, name)
}
