package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
// to be removed is one step, and so is what takes the place of others.
func (i *instance) steps(ctx context.Context, w *plan.Workload, actions []plan.Action) (steps []workload.Step, err error) {
	for n, a := range actions {
		begins := n == 0 || actions[n-1].Kind != a.Kind || actions[n-1].Wave != a.Wave
		switch a.Kind {
		case plan.Remove:
			if begins {
				steps = append(steps, i.removal(containersOf(upTo(actions[n:], a.Kind))))
			}
			continue
		case plan.Swap:
			if begins {
				steps = append(steps, i.swap(upTo(actions[n:], a.Kind)))
			}
			continue
		case plan.Pull:
			here, err := i.runtime.ImageExists(ctx, a.Image)
			if err != nil {
				return nil, err
			}
			if here {
				continue
			}
		}
		steps = append(steps, i.step(w, a))
	}
	return steps, nil
}

// upTo are the first actions, which are all of a kind.
func upTo(actions []plan.Action, kind plan.Kind) []plan.Action {
	n := slices.IndexFunc(actions, func(a plan.Action) bool { return a.Kind != kind || a.Wave != actions[0].Wave })
	if n < 0 {
		return actions
	}
	return actions[:n]
}

func containersOf(actions []plan.Action) (list []container.Container) {
	for _, a := range actions {
		list = append(list, a.Container)
	}
	return list
}

// kinds are those of steps that are no workload.Change. What ends a replacement waits for
// no other service.
var kinds = map[plan.Kind]workload.Kind{
	plan.Pull: workload.Fetch, plan.Start: workload.Restart, plan.Stop: workload.Restart, plan.Resume: workload.Restart, plan.Promote: workload.Restart, plan.PutBack: workload.Restart,
}

func (i *instance) step(w *plan.Workload, a plan.Action) workload.Step {
	step := workload.Step{Kind: kinds[a.Kind], Name: a.String(), Do: func(ctx context.Context) error { return i.do(ctx, w, a) }}
	switch a.Kind {
	case plan.Stop:
		step.Within = a.Container.Grace + beyondGrace
	case plan.Pull:
		step.Progress = i.progress(w, a.Image)
	}
	return step
}

// do takes a step. One that fails may be about a damaged storage.
func (i *instance) do(ctx context.Context, w *plan.Workload, a plan.Action) error {
	err := i.act(ctx, w, a)
	switch {
	case errors.Is(err, container.ErrDamaged):
		i.keeper.alarm()
	case err != nil:
		i.keeper.suspect()
	}
	if service := serviceOf(&a); errors.Is(err, container.ErrPortInUse) && service != "" {
		return fmt.Errorf("service %s: %w", service, i.taken(service, err))
	}
	return err
}

// serviceOf is the service that an action is about.
func serviceOf(a *plan.Action) string {
	if a.Spec != nil {
		return a.Spec.Service
	}
	return a.Container.Service
}

func (i *instance) act(ctx context.Context, w *plan.Workload, a plan.Action) error {
	switch a.Kind {
	case plan.Pull:
		if err := pullable(w, a.Image); err != nil {
			return err
		}
		defer i.keeper.alarm() // podman takes a layer that an interrupted pull left for whole
		return i.pull(ctx, w, a.Image)
	case plan.EnsureVolume:
		_, err := i.runtime.EnsureVolume(ctx, i.ref, a.Volume, "", a.Size)
		if errors.Is(err, container.ErrNoLimit) {
			err = fmt.Errorf("volumes[].sizeLimit: podman of this device cannot limit named volumes, which no rootless podman can: remove sizeLimit, or use emptyDir: %w", err)
		}
		return err
	case plan.EnsureNetwork:
		return i.ensureNetwork(ctx, a.Network)
	case plan.EnsureSecret:
		return i.runtime.EnsureSecret(ctx, a.Secret, a.Content)
	case plan.Clear:
		i.log.Warn("clearing a container that is stuck", "container", a.Container.Name, "state", a.Container.State, "no_process", a.Container.Gone)
		if err := i.adopt(ctx, a.Container); err != nil {
			return err
		}
		i.noteStuck(ctx, &a.Container)
		i.refusals.noteCleared(&a.Container, plan.Stuck(&a.Container))
		return i.runtime.Clear(ctx, a.Container.ID)
	case plan.Prepare:
		return i.prepare(ctx, a.Spec, a.Container)
	case plan.Promote:
		return i.promote(ctx, a)
	case plan.PutBack:
		return i.putBack(ctx, a)
	case plan.Create:
		return i.create(ctx, a.Spec)
	case plan.Start:
		return i.startAgain(ctx, &a.Container)
	case plan.Stop:
		i.log.Warn("stopping a container", "container", a.Container.Name, "reason", a.Why, "restarts", a.Container.Restarts)
		if a.Late { // on the record first, so that a power cut does not hide why it ended
			i.runs.Probed(a.Container.ID, a.Container.Started, container.Health{Unwell: a.Why})
			i.runs.Save()
		}
		return i.end(ctx, &a.Container)
	case plan.Resume:
		return i.resume(ctx, a)
	case plan.Remove:
		return i.remove(ctx, a.Container)
	case plan.RemoveVolume:
		i.log.Info("removing volume", "volume", a.Volume)
		if err := i.runtime.RemoveVolume(ctx, a.Volume); err != nil {
			return err
		}
		return i.adoptions.forget(a.Volume)
	}
	return fmt.Errorf("planned action %v is unknown", a.Kind)
}

// startAgain starts a container that ended. One that podman can start no more is removed, as
// after an upgrade of the system or a power cut: the next pass makes another.
func (i *instance) startAgain(ctx context.Context, c *container.Container) error {
	if err := i.alone(ctx, c); err != nil {
		return err
	}
	i.log.Info("starting container", "container", c.Name)
	err := i.start(ctx, c.ID, c.Mounts)
	if !beyondUse(err) {
		return err
	}
	return errors.Join(fmt.Errorf("%w: it is made anew", err), i.remove(ctx, *c))
}

// beyondUse reports whether a container could not be started for a reason that another one
// of the same Spec would not have.
func beyondUse(err error) bool {
	return errors.Is(err, container.ErrOutdated) || errors.Is(err, container.ErrDamaged)
}

// alone returns an error while another container of the service runs, or might: one that the
// plan ends, which did not come about because a step before failed.
func (i *instance) alone(ctx context.Context, c *container.Container) error {
	other := func(o container.Container) bool {
		return o.Service == c.Service && o.ID != c.ID && o.MayRun()
	}
	if !slices.ContainsFunc(i.containers, other) {
		return nil
	}
	now, err := i.runtime.List(ctx, i.ref)
	if err == nil && slices.ContainsFunc(now, other) {
		err = fmt.Errorf("container %s is not started: another one of service %s has not ended", c.Name, c.Service)
	}
	return err
}

func (i *instance) create(ctx context.Context, spec *container.Spec) error {
	id, err := i.make(ctx, spec)
	if err = cmp.Or(err, i.vacate(ctx, spec)); err != nil {
		return err
	}
	if err = i.start(ctx, id, spec.Mounts); beyondUse(err) {
		err = errors.Join(err, i.discard(ctx, id)) // the next pass makes another
	}
	return err
}

// start starts a container. Podman looks for what it mounts at each start, so that every
// start of the agent's comes by here.
func (i *instance) start(ctx context.Context, id string, mounts []container.Mount) error {
	if _, err := i.mounts.allows(mounts); err != nil {
		return err
	}
	if err := i.refill(ctx, id); err != nil {
		return err
	}
	return i.startOrOutdated(ctx, id)
}

// make makes a container without starting it.
func (i *instance) make(ctx context.Context, spec *container.Spec) (id string, err error) {
	// Once more: the image may have taken an hour to come.
	sight, err := i.mounts.allows(spec.Mounts)
	if err != nil {
		return "", fmt.Errorf("service %s: %w", spec.Service, err)
	}
	image, err := i.runtime.Image(ctx, spec.Image)
	if err != nil {
		return "", err
	}
	if err := cmp.Or(i.keeper.usable(&image), i.workable(spec, &image, sight)); err != nil {
		return "", fmt.Errorf("service %s: %w", spec.Service, err)
	}
	if spec, err = i.withImage(ctx, spec, &image); err != nil {
		return "", err
	}
	if err := i.fillOnce(ctx, spec); err != nil {
		return "", fmt.Errorf("service %s: %w", spec.Service, err)
	}
	spec = withFiles(spec)
	i.log.Info("creating container", "container", spec.Name(), "image", spec.Image)
	if id, err = i.runtime.Create(ctx, spec); err == nil {
		i.runs.Made(id)
	}
	return id, err
}

// removal is the step that removes containers. They have their time to end side by
// side, or a Deployment would be away for the sum of it.
func (d *Driver) removal(list []container.Container) workload.Step {
	names, grace := summary(list)
	return workload.Step{
		Name: "removing container " + names, Within: grace + beyondGrace,
		Do: func(ctx context.Context) error {
			return sideBySide(list, func(c container.Container) error { return d.remove(ctx, c) })
		},
	}
}

// summary is what containers are called, and how long they have to end side by side.
func summary(list []container.Container) (names string, grace time.Duration) {
	all := make([]string, len(list))
	for n, c := range list {
		all[n], grace = c.Name, max(grace, c.Grace)
	}
	return strings.Join(all, ", "), grace
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

// stop stops a container whose end is not its own.
func (d *Driver) stop(ctx context.Context, c container.Container) error {
	d.log.Info("stopping container", "container", c.Name)
	d.runs.Expect(c.ID)
	return d.end(ctx, &c)
}

// remove stops and removes a container, and keeps the data of its volumes.
func (d *Driver) remove(ctx context.Context, c container.Container) error {
	d.log.Info("removing container", "container", c.Name)
	if !c.Ended() {
		d.runs.Expect(c.ID)
	}
	if err := d.end(ctx, &c); err != nil {
		return err
	}
	if err := d.adopt(ctx, c); err != nil {
		return err
	}
	if err := d.runtime.Remove(ctx, c.ID); err != nil {
		return err
	}
	if c.State == container.StateCreated || c.State == container.StateConfigured {
		d.endMonitor(ctx, c.ID)
	}
	return nil
}

// pullable refuses to pull what its services want to be there already.
func pullable(w *plan.Workload, image string) error {
	for i := range w.Services {
		if s := &w.Services[i]; s.Image == image && s.Pull == container.PullNever {
			return fmt.Errorf("service %s: image %q is not on this device, and pullPolicy is Never: load it there, or change pullPolicy", s.Service, image)
		}
	}
	return nil
}

// pull pulls an image of a workload.
func (d *Driver) pull(ctx context.Context, w *plan.Workload, image string) error {
	err := d.pullFor(ctx, w, image)
	if names := servicesOf(w, image); err != nil && len(names) == 1 {
		return fmt.Errorf("service %s: %w", names[0], err)
	} else if err != nil {
		return fmt.Errorf("services %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// servicesOf are those that run an image.
func servicesOf(w *plan.Workload, image string) (names []string) {
	for i := range w.Services {
		if s := &w.Services[i]; s.Image == image {
			names = append(names, s.Service)
		}
	}
	return names
}

func (d *Driver) pullFor(ctx context.Context, w *plan.Workload, image string) error {
	began := time.Now()
	if err := d.roomFor(ctx, image); err != nil {
		return err
	}
	d.pruner.book.Pull(image) // whoever plans a pull saw that the image is not here
	pull := d.pulls.begin(w.Ref, image)
	defer d.pulls.end(pull)
	d.log.Info("pulling image", "image", image)
	login, loginErr := w.LoginFor(image), error(nil)
	if login == nil {
		login, loginErr = d.login(ctx, image)
	}
	if err := d.fetch(ctx, image, login, func(f func() (int64, int64)) { d.pulls.follow(pull, f) }); err != nil {
		if loginErr != nil {
			err = fmt.Errorf("%w (%w)", err, loginErr)
		}
		return d.outOfSpace(ctx, image, err)
	}
	d.flush(ctx, image, flushTimeout)
	if found, err := d.runtime.Image(ctx, image); err == nil { // or else the next look finds it
		d.pruner.book.Got(image, found.ID)
	}
	d.log.Info("pulled image", "image", image, "duration", time.Since(began).Round(time.Millisecond))
	return nil
}
