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

// followProgress reports how far a fetch is, until stop is called. Stop does not wait for whoever
// tells: that may hang, and the fetch is done.
func (p *pass) followProgress(progress func() workload.Progress) (stop func()) {
	if progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{reporter: p.reporter, ref: p.ref}
	go f.run(ctx, progress)
	return func() {
		cancel()
		f.end()
	}
}

// follower reports how far one fetch is.
type follower struct {
	reporter *reporter
	ref      wire.DeploymentRef

	// mu guards ended, and is held while something is reported, which never waits.
	mu    sync.Mutex
	ended bool
}

func (f *follower) run(ctx context.Context, progress func() workload.Progress) {
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
			f.tell(now.String())
		}
	}
}

// tell reports a progress, unless the fetch ended meanwhile.
func (f *follower) tell(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.reporter.setProgress(f.ref, text)
	}
}

func (f *follower) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.reporter.setProgress(f.ref, "")
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
