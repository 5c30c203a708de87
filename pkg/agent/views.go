package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// view is what one driver sees of a Deployment.
type view struct {
	workload.Instance

	driver workload.Driver
}

// observe looks at the Deployment with every driver: its score may have been of
// another type. A driver that does not answer holds up only what may be its own;
// for anything else that it has there is another pass when it is back.
func (p *pass) observe(ctx context.Context) error {
	var views []view
	for _, d := range p.drivers {
		instance, err := d.Observe(ctx, p.ref)
		if errors.Is(err, workload.ErrUnavailable) && !p.mayOwn(d) {
			continue
		}
		if err != nil {
			p.silent = errors.Is(err, workload.ErrUnavailable) && d.About().Condition.Type == ""
			return fmt.Errorf("observing %s: %w", p.ref, err)
		}
		views = append(views, view{instance, d})
	}
	p.views = views
	return nil
}

// unseen ends a pass that could not look at the Deployment. Where a condition of the device
// says why, the Deployment is left as it was reported; otherwise it has to say so itself.
func (p *pass) unseen(ctx context.Context, err error) error {
	if p.silent && p.target.verdict == plan.Apply && ctx.Err() == nil {
		hash := cmp.Or(p.target.entry.Hash, p.target.applied)
		p.report(plan.Outcome{Hash: hash, Err: err, Since: p.troubles.note(p.ref, hash, err)})
	}
	return err
}

// mayOwn reports whether something of the Deployment may be the driver's, as far
// as scores tell. Where they do not, it may be any driver's.
func (p *pass) mayOwn(d workload.Driver) bool {
	types := d.About().Types
	if p.target.applied != "" && p.target.applied != p.target.entry.Hash {
		s, err := wire.Decode[wire.Score](p.store.Body(p.target.applied), wire.MaxScoreSize)
		if err != nil || slices.Contains(types, s.Type) {
			return true
		}
		return p.target.verdict == plan.Apply && slices.Contains(types, p.target.entry.Type)
	}
	return p.drivers.Taking(p.target.entry.Type) == nil || slices.Contains(types, p.target.entry.Type)
}

// view returns that of the driver that takes the score, or nil.
func (p *pass) view() workload.Instance {
	for _, v := range p.views {
		if p.driver != nil && v.driver.About().Name == p.driver.About().Name {
			return v
		}
	}
	return nil
}

// exists reports whether any driver has something of the Deployment.
func (p *pass) exists() bool {
	return slices.ContainsFunc(p.views, func(v view) bool { return v.Exists() })
}

// others are the views of drivers that do not take the score.
func (p *pass) others() (others []view) {
	for _, v := range p.views {
		if v.driver.About().Name != p.driver.About().Name {
			others = append(others, v)
		}
	}
	return others
}

// forgetOthers takes back what other drivers reserved for an earlier score.
func (p *pass) forgetOthers() {
	for _, v := range p.others() {
		workload.Forget(v.driver, p.ref)
	}
}

// state is what to report of what there is: by the driver that takes the score,
// or else by one that has something.
func (p *pass) state() workload.State {
	now := time.Now()
	if v := p.view(); v != nil {
		return v.State(p.workload, now)
	}
	for _, v := range p.views {
		if v.Exists() {
			return v.State(nil, now)
		}
	}
	return workload.State{Phase: wire.PhasePending}
}

// replacing adds to the steps of a plan those that remove what other drivers have
// of the Deployment: after what is fetched, so that what runs goes on meanwhile,
// and before anything new comes. Data is kept.
func (p *pass) replacing(ctx context.Context, steps []workload.Step) ([]workload.Step, error) {
	fetches := 0
	for fetches < len(steps) && steps[fetches].Kind == workload.Fetch {
		fetches++
	}
	var removals []workload.Step
	for _, v := range p.others() {
		if !v.Exists() {
			continue
		}
		more, err := v.Remove(ctx, wire.RetainVolumes)
		if err != nil {
			return nil, err
		}
		removals = append(removals, more...)
	}
	return slices.Concat(steps[:fetches], removals, steps[fetches:]), nil
}
