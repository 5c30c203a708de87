package driver

import (
	"context"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

// steps makes steps of actions, without the pulls of images that are here.
func (i *instance) steps(ctx context.Context, actions []plan.Action) (steps []workload.Step, err error) {
	for _, a := range actions {
		if a.Kind == plan.Pull {
			here, err := i.runtime.ImageExists(ctx, a.Image)
			if err != nil {
				return nil, err
			}
			if here {
				continue
			}
		}
		steps = append(steps, i.step(a))
	}
	return steps, nil
}

func (i *instance) step(a plan.Action) workload.Step {
	kinds := map[plan.Kind]workload.Kind{plan.Pull: workload.Fetch, plan.Start: workload.Restart}
	return workload.Step{Kind: kinds[a.Kind], Name: a.String(), Do: func(ctx context.Context) error { return i.do(ctx, a) }}
}

func (i *instance) do(ctx context.Context, a plan.Action) error {
	switch a.Kind {
	case plan.Pull:
		return i.pull(ctx, a.Image)
	case plan.EnsureVolume:
		return i.runtime.EnsureVolume(ctx, i.ref, a.Volume)
	case plan.EnsureSecret:
		return i.runtime.EnsureSecret(ctx, a.Secret, a.Content)
	case plan.Remove:
		return i.remove(ctx, a.Container)
	case plan.Create:
		return i.create(ctx, a.Spec)
	case plan.Start:
		if err := i.mounts.allows(a.Container.Mounts); err != nil {
			return err
		}
		i.log.Info("starting container", "container", a.Container.Name)
		return i.runtime.Start(ctx, a.Container.ID)
	case plan.RemoveVolume:
		i.log.Info("removing volume", "volume", a.Volume)
		return i.runtime.RemoveVolume(ctx, a.Volume)
	}
	return fmt.Errorf("planned action %v is unknown", a.Kind)
}

func (i *instance) create(ctx context.Context, spec *container.Spec) error {
	// Once more: the image may have taken an hour to come.
	if err := i.mounts.allows(spec.Mounts); err != nil {
		return err
	}
	i.log.Info("creating container", "container", spec.Name(), "image", spec.Image)
	id, err := i.runtime.Create(ctx, spec)
	if err != nil {
		return err
	}
	return i.runtime.Start(ctx, id)
}

func (d *Driver) remove(ctx context.Context, c container.Container) error {
	d.log.Info("removing container", "container", c.Name)
	if err := d.runtime.Stop(ctx, c.ID); err != nil {
		return err
	}
	return d.runtime.Remove(ctx, c.ID)
}

func (d *Driver) pull(ctx context.Context, image string) error {
	began := time.Now()
	d.log.Info("pulling image", "image", image)
	login, loginErr := d.login(ctx, image)
	if err := d.runtime.Pull(ctx, image, login); err != nil {
		if loginErr != nil {
			err = fmt.Errorf("%w (%w)", err, loginErr)
		}
		return err
	}
	d.log.Info("pulled image", "image", image, "duration", time.Since(began).Round(time.Millisecond))
	return nil
}
