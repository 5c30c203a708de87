package driver

import (
	"context"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

var _ workload.Reviver = (*instance)(nil)

// Revive implements workload.Reviver. What the device does not allow any more stays down.
func (i *instance) Revive(w workload.Workload) (steps []workload.Step) {
	if i.allow.workload(of(w)) != nil {
		return nil
	}
	present, absent := i.mounts.absent(i.present(of(w)))
	i.waits.set(i.ref, absent)
	// What is known of jobs is about those that the manifest names.
	asked := i.waits.of(i.refusals.of(plan.AsBefore(present, i.containers, false)))
	i.note(asked.Services)
	for _, a := range plan.Revivals(asked, i.containers, time.Now()) {
		switch a.Kind {
		case plan.Start, plan.Resume:
			steps = append(steps, i.revival(a.Container))
		default:
			steps = append(steps, i.step(asked, a))
		}
	}
	return steps
}

// revival starts a container and, unlike the steps of a plan, removes none that cannot be
// started: what would take its place may not be here yet.
func (i *instance) revival(c container.Container) workload.Step {
	return workload.Step{Kind: workload.Restart, Name: "starting container " + c.Name, Do: func(ctx context.Context) error {
		i.log.Info("starting container", "container", c.Name)
		return i.start(ctx, c.ID, c.Mounts)
	}}
}
