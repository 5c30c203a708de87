package agent

import (
	"context"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// progressEvery is the time between two looks at how far a fetch is. One that takes less
	// is not told of.
	progressEvery = 10 * time.Second
	// progressParts is how many times a fetch is told of at most, however long it takes: ten
	// thousand devices that pull at one time have to be no burden.
	progressParts = 10
)

// followProgress reports how far a fetch is, until stop is called.
func (p *pass) followProgress(progress func() workload.Progress) (stop func()) {
	if progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var follows sync.WaitGroup
	follows.Go(func() { p.tellProgress(ctx, progress) })
	return func() {
		cancel()
		follows.Wait()
	}
}

func (p *pass) tellProgress(ctx context.Context, progress func() workload.Progress) {
	defer p.reporter.setProgress(p.ref, "")
	ticks := time.NewTicker(progressEvery)
	defer ticks.Stop()
	var told workload.Progress
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		if now := progress(); worthTelling(told, now) {
			told = now
			p.reporter.setProgress(p.ref, now.String())
		}
	}
}

// worthTelling reports whether a fetch went on by a part since it was told of.
func worthTelling(told, now workload.Progress) bool {
	return told.What != now.What || told.Total != now.Total || now.Brought-told.Brought >= max(now.Total/progressParts, 1)
}

// setProgress adds to the report about a Deployment how far a fetch for it is.
func (r *reporter) setProgress(ref wire.DeploymentRef, text string) {
	last, told := r.last(ref)
	if text = plan.Cut(text, wire.MaxProgress); !told || last.Phase == wire.PhaseRemoved || last.Progress == text {
		return
	}
	last.Progress = text
	r.set(last)
}
