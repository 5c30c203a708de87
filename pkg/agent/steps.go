package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

const (
	// maxSteps bounds the steps that are taken at one time: each start is a second
	// of CPU on a small board.
	maxSteps = 4
	// maxFetches bounds what is fetched at one time. A fetch holds no place among the
	// steps, so that one slow registry delays no other start.
	maxFetches = 3
	// stepTimeout bounds one step but for fetches: podman takes ten seconds to
	// stop a container that does not want to, and is slow on a slow card.
	stepTimeout = 2 * time.Minute
	// fetchTimeout bounds a fetch: 1 GB over 5 Mbit/s takes 27 minutes.
	fetchTimeout = time.Hour
	// Bounds of the time between two looks at what should run meanwhile. It doubles with
	// each start that fails.
	minRevivePause, maxRevivePause = 5 * time.Second, 5 * time.Minute
)

// errSuperseded: a newer manifest made the pass obsolete.
var errSuperseded = errors.New("superseded by a newer manifest")

// execute does what was planned, up to the first error. After one it only sets
// going what is as it should be already: an image that cannot be had for one
// service is no reason to keep another down.
func (p *pass) execute(ctx context.Context, steps []workload.Step) error {
	var failure error
	for _, s := range steps {
		if p.superseded() {
			return errSuperseded
		}
		if failure != nil && s.Kind != workload.Restart {
			continue
		}
		if err := p.do(ctx, s); err != nil && failure == nil {
			failure = err
		}
	}
	return failure
}

// superseded reports whether what was planned is obsolete.
func (p *pass) superseded() bool {
	select {
	case <-p.run.Superseded:
		return true
	default:
		return false
	}
}

func (p *pass) do(ctx context.Context, s workload.Step) error {
	if s.Kind == workload.Fetch {
		return p.fetch(ctx, s)
	}
	if err := acquire(ctx, p.slots); err != nil {
		return err
	}
	defer release(p.slots)
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.Within, stepTimeout))
	defer cancel()
	return s.Do(ctx)
}

// fetch takes a step that may take long. It gives up when a newer manifest
// supersedes the pass, so that a wrong image can be corrected at once.
func (p *pass) fetch(ctx context.Context, s workload.Step) error {
	if !p.troubles.has(p.ref, p.waiting.Hash) {
		p.report(p.waiting)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTimeout, fmt.Errorf("%s: not done after %v", s.Name, fetchTimeout))
	defer cancel()
	ctx, supersede := context.WithCancelCause(ctx)
	defer supersede(nil)
	go func() {
		select {
		case <-p.run.Superseded:
			supersede(errSuperseded)
		case <-ctx.Done():
		}
	}()
	err := p.reviveUntil(ctx, func() error { return p.fetchInTurn(ctx, s) })
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// fetchInTurn takes the step when there is a place for it.
func (p *pass) fetchInTurn(ctx context.Context, s workload.Step) error {
	if err := acquire(ctx, p.fetches); err != nil {
		return err
	}
	defer release(p.fetches)
	defer p.followProgress(s.Progress)()
	return s.Do(ctx)
}

// acquire takes a place in a counting semaphore.
func acquire(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func release(places chan struct{}) { <-places }
