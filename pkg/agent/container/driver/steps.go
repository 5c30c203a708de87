package driver

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

// beyondGrace is what podman takes to stop and remove a container besides the time
// that the container has to end.
const beyondGrace = 2 * time.Minute

// steps makes steps of actions, without the pulls of images that are here. What is
// to be removed is one step.
func (i *instance) steps(ctx context.Context, actions []plan.Action) (steps []workload.Step, err error) {
	var removed []container.Container
	for n, a := range actions {
		if a.Kind == plan.Remove {
			removed = append(removed, a.Container)
			if n+1 == len(actions) || actions[n+1].Kind != plan.Remove {
				steps = append(steps, i.removal(removed))
				removed = nil
			}
			continue
		}
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
		_, err := i.runtime.EnsureVolume(ctx, i.ref, a.Volume, "")
		return err
	case plan.EnsureSecret:
		return i.runtime.EnsureSecret(ctx, a.Secret, a.Content)
	case plan.Create:
		return i.create(ctx, a.Spec)
	case plan.Start:
		if err := i.mounts.allows(a.Container.Mounts); err != nil {
			return err
		}
		i.log.Info("starting container", "container", a.Container.Name)
		return i.runtime.Start(ctx, a.Container.ID)
	case plan.Stop:
		i.log.Warn("stopping a container that podman restarts again and again", "container", a.Container.Name, "restarts", a.Container.PolicyRestarts)
		return i.runtime.Stop(ctx, a.Container.ID, a.Container.Grace)
	case plan.Remove:
		return i.remove(ctx, a.Container)
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
	spec, err := i.withImageVolumes(ctx, spec)
	if err != nil {
		return err
	}
	i.log.Info("creating container", "container", spec.Name(), "image", spec.Image)
	id, err := i.runtime.Create(ctx, spec)
	if err != nil {
		return err
	}
	return i.runtime.Start(ctx, id)
}

// removal is the step that removes containers. They have their time to end side by
// side, or a Deployment would be away for the sum of it.
func (d *Driver) removal(list []container.Container) workload.Step {
	names, grace := make([]string, len(list)), time.Duration(0)
	for n, c := range list {
		names[n], grace = c.Name, max(grace, c.Grace)
	}
	return workload.Step{
		Name: "removing container " + strings.Join(names, ", "), Within: grace + beyondGrace,
		Do: func(ctx context.Context) error {
			return sideBySide(list, func(c container.Container) error { return d.remove(ctx, c) })
		},
	}
}

// maxBeside bounds the containers that are stopped at one time: podman takes some
// memory and a process for each.
const maxBeside = 8

// sideBySide does something to each container, whatever becomes of the others.
func sideBySide(list []container.Container, do func(container.Container) error) error {
	var group errgroup.Group
	group.SetLimit(maxBeside)
	for _, c := range list {
		group.Go(func() error { return do(c) })
	}
	return group.Wait()
}

// remove stops and removes a container, and keeps the data of its volumes.
func (d *Driver) remove(ctx context.Context, c container.Container) error {
	d.log.Info("removing container", "container", c.Name)
	if err := d.runtime.Stop(ctx, c.ID, c.Grace); err != nil {
		return err
	}
	if err := d.adopt(ctx, c); err != nil {
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
