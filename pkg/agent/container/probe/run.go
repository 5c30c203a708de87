package probe

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// ErrUnknown: an attempt says nothing about the container.
var ErrUnknown = errors.New("cannot be probed")

// run is one run of a container that is probed.
type run struct {
	Target

	prober *Prober

	// cancel ends it; nil before it began. The mu of the Prober guards it.
	cancel context.CancelFunc

	health container.Health
	guard  sync.Mutex // guards health
}

// is reports whether a target is this run with the same probes.
func (r *run) is(t *Target) bool {
	return r.Run.Equal(t.Run) && r.PID == t.PID && reflect.DeepEqual(r.Probes, t.Probes)
}

// end must be called with the mu of the Prober held.
func (r *run) end() {
	if r.cancel != nil {
		r.cancel()
	}
}

// probe probes until ctx ends: nothing else before the container has started.
func (r *run) probe(ctx context.Context) {
	if !r.hooked(ctx) || !r.started(ctx) {
		return
	}
	var others sync.WaitGroup
	if r.Probes.Liveness != nil {
		others.Go(func() { r.repeat(ctx, r.Probes.Liveness, false, r.living) })
	}
	if r.Probes.Readiness != nil {
		others.Go(func() { r.repeat(ctx, r.Probes.Readiness, r.Health.Ready, r.readying) })
	}
	others.Wait()
}

// hookPause is the time between two attempts of a hook that could not be made.
const hookPause = 5 * time.Second

// hooked does what is to be done after the start, once unless the agent ends meanwhile, and
// reports whether that succeeded.
func (r *run) hooked(ctx context.Context) bool {
	hook := r.Probes.PostStart
	if hook == nil || r.Health.Hooked {
		return ctx.Err() == nil
	}
	for ctx.Err() == nil {
		err := r.attempt(ctx, hook)
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil:
			r.change(func(h *container.Health) { h.Hooked, h.Why = true, "" })
			return true
		case !errors.Is(err, ErrUnknown):
			r.change(func(h *container.Health) { h.Unwell = "its postStart hook failed: " + err.Error() })
			return false
		}
		r.change(func(h *container.Health) { h.Why = err.Error() })
		select {
		case <-time.After(hookPause):
		case <-ctx.Done():
		}
	}
	return false
}

// started waits until the startup probe succeeds, and reports whether it did.
func (r *run) started(ctx context.Context) bool {
	if r.Probes.Startup == nil || r.Health.Started {
		return ctx.Err() == nil
	}
	r.repeat(ctx, r.Probes.Startup, false, func(v verdict, why string) (enough bool) {
		switch v {
		case passes:
			r.change(func(h *container.Health) { h.Started, h.Why = true, "" })
		case fails:
			r.change(func(h *container.Health) { h.Unwell = "its startup probe failed: " + why })
		case unknown:
			r.change(func(h *container.Health) { h.Why = why })
			return false
		}
		return true
	})
	r.guard.Lock()
	defer r.guard.Unlock()
	return r.health.Started && ctx.Err() == nil
}

// living takes a verdict of the liveness probe.
func (r *run) living(v verdict, why string) (enough bool) {
	if v == fails {
		r.change(func(h *container.Health) { h.Unwell = "its liveness probe failed: " + why })
	}
	return v == fails
}

// readying takes a verdict of the readiness probe.
func (r *run) readying(v verdict, why string) (enough bool) {
	r.change(func(h *container.Health) {
		switch v {
		case passes:
			h.Ready, h.Why = true, ""
		case fails:
			h.Ready, h.Why = false, "its readiness probe failed: "+why
		case unknown:
			if !h.Ready {
				h.Why = why
			}
		}
	})
	return false
}

// change changes what is known of the run, and tells it if that is news.
func (r *run) change(how func(*container.Health)) {
	r.guard.Lock()
	before := r.health
	how(&r.health)
	now := r.health
	r.guard.Unlock()
	if now != before {
		r.prober.log.Info("the health of a container changed", "container", r.Name, "started", now.Started, "ready", now.Ready, "reason", now.Unwell+now.Why)
		r.prober.note(&r.Target, now)
	}
}

// repeat makes attempts until ctx ends or on says that it is enough. on takes what the
// attempts amount to, whenever that is so. passed says that it did before.
func (r *run) repeat(ctx context.Context, p *container.Probe, passed bool, on func(v verdict, why string) (enough bool)) {
	tally := tally{probe: p, passed: passed}
	timer := time.NewTimer(time.Until(r.Since.Add(p.Delay)))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := r.attempt(ctx, p)
		if ctx.Err() != nil {
			return
		}
		v := tally.add(err)
		if v != undecided && on(v, text(err)) {
			return
		}
		pause := tally.pause()
		if err == nil {
			pause = r.prober.together(time.Now(), pause)
		}
		timer.Reset(pause)
	}
}

// attempt makes one attempt.
func (r *run) attempt(ctx context.Context, p *container.Probe) error {
	limited, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	err := r.prober.checker.Check(limited, &r.Target, p)
	if err != nil && limited.Err() != nil && !errors.Is(err, ErrUnknown) {
		return fmt.Errorf("no answer within %s", p.Timeout)
	}
	return err
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
