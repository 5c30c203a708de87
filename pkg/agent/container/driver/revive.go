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
	for _, c := range plan.Revivals(asked, i.containers, time.Now()) {
		steps = append(steps, i.revival(asked, c))
	}
	return steps
}

func (i *instance) revival(w *plan.Workload, c container.Container) workload.Step {
	return workload.Step{Kind: workload.Restart, Name: "starting container " + c.Name, Do: func(ctx context.Context) error {
		for n := range w.Networks { // which may have been lost
			if err := i.ensureNetwork(ctx, &w.Networks[n]); err != nil {
				return err
			}
		}
		if spec := i.specOf(&c); spec != nil { // and so may they
			for name, content := range spec.Secrets {
				if err := i.runtime.EnsureSecret(ctx, name, content); err != nil {
					return err
				}
			}
		}
		i.log.Info("starting container", "container", c.Name)
		return i.start(ctx, c.ID, c.Mounts)
	}}
}
