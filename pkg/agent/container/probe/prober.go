package probe

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Target is a container that runs and is probed.
type Target struct {
	Ref wire.DeploymentRef
	// ID names the container, Run the run, as the runtime dates it.
	ID  string
	Run time.Time
	// Name is for logs.
	Name string
	// PID is the container's first process on the device.
	PID int
	// Since is when the run began, for a timer.
	Since time.Time
	// Health is what was known of the run before.
	Health container.Health
	Probes container.Probes
}

// Checker makes one attempt of a probe. A nil error is success. An error that wraps
// ErrUnknown says nothing about the container; any other is a failure, and its text is
// one short line that may be shown.
type Checker interface {
	Check(ctx context.Context, t *Target, p *container.Probe) error
}

// Prober probes containers. Make it with New; its methods may be called concurrently.
type Prober struct {
	checker Checker
	note    func(t *Target, h container.Health)
	log     *slog.Logger
	// epoch is the beginning of all periods, see together.
	epoch time.Time

	mu sync.Mutex // guards what follows
	// ctx is that of Run; nil while nothing is probed.
	ctx context.Context
	// runs are the runs of containers that are to be probed, by container.
	runs map[wire.DeploymentRef]map[string]*run
	done sync.WaitGroup
}

// New returns a prober that calls note for what it finds out, whenever that changes.
func New(checker Checker, note func(t *Target, h container.Health), log *slog.Logger) *Prober {
	return &Prober{checker: checker, note: note, log: log, epoch: time.Now(), runs: map[wire.DeploymentRef]map[string]*run{}}
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) {
	p.mu.Lock()
	p.ctx = ctx
	for _, runs := range p.runs {
		for _, r := range runs {
			p.start(r)
		}
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.ctx = nil
	p.mu.Unlock()
	p.done.Wait()
}

// early is the part of a period by which an attempt may come early.
const early = 10

// together is the pause until an attempt that is due after a pause: a little shorter, so that
// after some periods the attempts of all probes come at the same moments. To wake agent,
// helper and container once for several attempts takes less than once for each.
func (p *Prober) together(now time.Time, pause time.Duration) time.Duration {
	if pause <= 0 {
		return pause
	}
	beyond := now.Add(pause).Sub(p.epoch) % pause
	return pause - min(beyond, pause/early)
}

// Watch probes these containers of a Deployment from now on, and no other of it. What is
// probed already goes on as it is, unless its probes changed.
func (p *Prober) Watch(ref wire.DeploymentRef, targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, now := p.runs[ref], make(map[string]*run, len(targets))
	for i := range targets {
		t := &targets[i]
		r := before[t.ID]
		if r == nil || !r.is(t) {
			r = &run{prober: p, Target: *t, health: t.Health}
			p.start(r)
		}
		now[t.ID] = r
	}
	for id, r := range before {
		if now[id] != r {
			r.end()
		}
	}
	if p.runs[ref] = now; len(now) == 0 {
		delete(p.runs, ref)
	}
}

// start begins to probe, once Run does. It must be called with mu held.
func (p *Prober) start(r *run) {
	if p.ctx == nil || p.ctx.Err() != nil {
		return
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(p.ctx)
	p.done.Go(func() { r.probe(ctx) })
}
