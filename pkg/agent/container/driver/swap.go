package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

// prepare makes the container that is to take the place of the previous one, and finds
// out whether it could be started. That one goes on, whatever comes of it.
func (i *instance) prepare(ctx context.Context, spec *container.Spec, previous container.Container) error {
	// The next one mounts the same volumes.
	if err := i.adopt(ctx, previous); err != nil {
		return err
	}
	// Both would listen on the same ports, or answer to one name, once they are prepared to run.
	if spec.Exclusive() {
		id, err := i.ready(ctx, spec.At(container.StageTrial))
		if err = cmp.Or(err, i.discard(ctx, id)); err != nil {
			return notReady(spec, err)
		}
	}
	create := i.ready
	if spec.Exclusive() {
		create = i.make
	}
	id, err := create(ctx, spec.At(container.StageNext))
	if err != nil {
		return notReady(spec, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.prepared[spec.Service] = id
	return nil
}

func notReady(spec *container.Spec, err error) error {
	return fmt.Errorf("service %s: the new version cannot start, and the previous one goes on: %w", spec.Service, err)
}

// ready makes a container and prepares it to run.
func (i *instance) ready(ctx context.Context, spec *container.Spec) (id string, err error) {
	if id, err = i.make(ctx, spec); err != nil {
		return "", err
	}
	if err = i.runtime.Init(ctx, id); err != nil {
		return "", errors.Join(err, i.discard(ctx, id))
	}
	return id, nil
}

// discard removes a container that never ran.
func (i *instance) discard(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	return i.runtime.Remove(ctx, id)
}

// swap is the step that stops containers, side by side, and then starts those that were
// prepared to take their places. Where one does not start, the previous one does.
func (i *instance) swap(actions []plan.Action) workload.Step {
	previous := containersOf(actions)
	names, grace := summary(previous)
	return workload.Step{
		Name: "replacing container " + names, Within: grace + time.Duration(len(actions))*beyondGrace,
		Do: func(ctx context.Context) error {
			var running sync.Map // by id, those that did not end
			err := sideBySide(previous, func(c container.Container) error {
				err := i.stop(ctx, c)
				if err != nil {
					running.Store(c.ID, true)
				}
				return err
			})
			// What was stopped must not stay so because the agent ends just now.
			ctx = context.WithoutCancel(ctx)
			err = cmp.Or(err, i.vacate(ctx, actions[0].Spec))
			for _, a := range actions {
				if _, still := running.Load(a.Container.ID); !still { // never two of one service
					err = cmp.Or(err, i.startNext(ctx, a))
				}
			}
			return err
		},
	}
}

// resume starts the previous container where nothing took its place.
func (i *instance) resume(ctx context.Context, a plan.Action) error {
	i.mu.Lock()
	replaced := i.replaced[a.Spec.Service]
	i.mu.Unlock()
	if replaced {
		return nil
	}
	if err := i.alone(ctx, &a.Container); err != nil {
		return err
	}
	i.log.Info("starting container", "container", a.Container.Name)
	return i.start(ctx, a.Container.ID, a.Container.Mounts)
}

// startNext starts what was prepared to take the place of a container that was stopped.
func (i *instance) startNext(ctx context.Context, a plan.Action) error {
	i.mu.Lock()
	id := i.prepared[a.Spec.Service]
	i.replaced[a.Spec.Service] = true
	i.mu.Unlock()
	name := a.Spec.At(container.StageNext).Name()
	i.log.Info("starting container", "container", name)
	failure := i.startOnceFree(ctx, id, a.Spec.Mounts)
	if failure == nil {
		return nil
	}
	if errors.Is(failure, workload.ErrUnavailable) {
		return failure // podman went away meanwhile, which says nothing of the new version
	}
	if beyondUse(failure) { // nor does this
		return errors.Join(failure, i.discard(ctx, id))
	}
	failure = i.taken(a.Spec.Service, failure)
	i.refusals.note(a.Spec, false, "the new version does not start: "+failure.Error())
	return errors.Join(notReady(a.Spec, failure), i.goBack(ctx, func() error { return i.discard(ctx, id) }, a))
}

const (
	// portPatience is how long a port may stay in use after the container that had it
	// ended: what forwards it is a process of its own, which ends a moment after podman
	// says that all is done. portPause is the time between two attempts.
	portPatience, portPause = 10 * time.Second, 200 * time.Millisecond
)

// startOnceFree starts a container whose ports another one had a moment ago.
func (i *instance) startOnceFree(ctx context.Context, id string, mounts []container.Mount) error {
	patience := time.NewTimer(portPatience)
	defer patience.Stop()
	for {
		err := i.start(ctx, id, mounts)
		if !errors.Is(err, container.ErrPortInUse) {
			return err
		}
		select {
		case <-time.After(portPause):
		case <-patience.C:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// promote makes a container the one of its service that was prepared for that.
func (i *instance) promote(ctx context.Context, a plan.Action) error {
	if a.Spare != nil {
		i.flush(ctx, "container "+a.Container.Name, promotionFlush)
		if err := i.remove(ctx, *a.Spare); err != nil {
			return err
		}
	}
	i.refusals.clear(a.Spec)
	return i.runtime.Rename(ctx, a.Container.ID, a.Spec.Name())
}

// putBack removes a container that does not run, and starts the previous one.
func (i *instance) putBack(ctx context.Context, a plan.Action) error {
	i.refusals.note(a.Spec, true, "the new version "+a.Why)
	back := plan.Action{Spec: a.Spec, Container: *a.Spare}
	return i.goBack(ctx, func() error { return i.remove(ctx, a.Container) }, back)
}

// goBack removes what was to take the place of the previous container, a.Container, and starts
// that one again.
func (i *instance) goBack(ctx context.Context, remove func() error, a plan.Action) error {
	previous := a.Container
	i.log.Warn("putting back the previous container", "container", previous.Name)
	if err := cmp.Or(remove(), i.giveBack(ctx, a)); err != nil {
		return err
	}
	i.runs.Made(previous.ID)
	return i.startOnceFree(ctx, previous.ID, previous.Mounts)
}
