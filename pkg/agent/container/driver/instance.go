package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// instance is the containers of a Deployment as they were observed.
type instance struct {
	*Driver

	ref        wire.DeploymentRef
	containers []container.Container

	mu sync.Mutex // guards what follows
	// prepared are the ids of the containers that take the place of others, by service.
	prepared map[string]string
	// replaced are the services whose previous container was stopped for good or put back.
	replaced map[string]bool
	// planned are the services of the last plan, and filled the hashes of those whose files
	// were written for it.
	planned []container.Spec
	filled  map[string]bool
}

// Exists implements workload.Instance.
func (i *instance) Exists() bool { return len(i.containers) > 0 }

// Forbidden removes the containers whose mounts are not allowed. To stop them is
// not enough: podman may start what is there.
func (i *instance) Forbidden() (steps []workload.Step, reason error) {
	sight := i.mounts.sight(i.containers)
	for _, c := range i.containers {
		err := i.mounts.check(sight, &c)
		if err == nil {
			continue
		}
		err = fmt.Errorf("service %s: %w", c.Service, err)
		i.log.Warn("container must not have its mounts", "container", c.Name, "error", err)
		steps = append(steps, i.removal([]container.Container{c}))
		if reason == nil {
			reason = err
		}
	}
	return steps, reason
}

// Plan implements workload.Instance.
func (i *instance) Plan(ctx context.Context, w workload.Workload, renewed bool) (workload.Plan, error) {
	i.wanted.note(of(w))
	if err := i.allow.workload(of(w)); err != nil {
		return workload.Plan{}, err
	}
	if err := i.lookUp(ctx, of(w)); err != nil {
		return workload.Plan{}, err
	}
	present, absent := i.mounts.absent(i.present(of(w)))
	i.waits.set(i.ref, absent)
	resolved, err := i.claim(present)
	if err != nil {
		return workload.Plan{}, err
	}
	resolved = i.waits.of(i.known(plan.AsBefore(resolved, i.containers, renewed), true))
	i.note(resolved.Services)
	i.probes.Watch(i.ref, targets(resolved, i.containers))
	actions, again := plan.Changes(resolved, i.containers, time.Now())
	steps, err := i.allSteps(ctx, resolved, actions, renewed)
	if renewed && len(followed(resolved)) > 0 {
		again = time.Now() // the images may be others by then
	}
	// A container that may be put back has its secrets until it is removed.
	swaps, ends := has(actions, plan.Swap) || plan.Waits(resolved, i.containers, time.Now()), has(actions, plan.Promote)
	if err == nil && (renewed && !swaps || ends) {
		var unused []workload.Step
		unused, err = i.removeSecrets(ctx, resolved)
		steps = append(steps, unused...)
		if err == nil && i.connected(resolved) {
			unused, err = i.removeNetworks(ctx, resolved)
			steps = append(steps, unused...)
		}
	}
	if err != nil {
		i.keeper.suspect()
		i.ports.release(i.ref, false)
		return workload.Plan{}, err
	}
	return workload.Plan{Steps: steps, Again: again}, nil
}

// present returns the workload as it is now: with the images that names stand for, and as
// earlier agents made it where that is what there is.
func (i *instance) present(w *plan.Workload) *plan.Workload {
	return i.moving.resolve(plan.Inherit(w, i.containers))
}

func (i *instance) note(planned []container.Spec) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.planned, i.filled = planned, map[string]bool{}
}

// allSteps makes steps of actions, and of what is to be done besides: newer images come
// first, and other contents of files once everything is in its place.
func (i *instance) allSteps(ctx context.Context, w *plan.Workload, actions []plan.Action, renewed bool) ([]workload.Step, error) {
	var newer []workload.Step
	var err error
	if renewed {
		if newer, err = i.renewals(ctx, w); err != nil {
			return nil, err
		}
	}
	steps, err := i.steps(ctx, w, actions)
	if err != nil {
		return nil, err
	}
	exchanges, err := i.exchanges(ctx, w)
	return slices.Concat(newer, steps, exchanges), err
}

// known returns a workload with what is known of its services. When decide is set, jobs may
// become due.
func (i *instance) known(w *plan.Workload, decide bool) *plan.Workload {
	return i.jobs.of(i.notes.of(i.refusals.of(w)), i.containers, decide)
}

// claim asks for what other Deployments may have, and returns the workload with
// its host paths resolved.
func (i *instance) claim(w *plan.Workload) (*plan.Workload, error) {
	running := slices.ContainsFunc(i.containers, func(c container.Container) bool { return c.State == container.StateRunning })
	if err := i.ports.claim(w, running); err != nil {
		return nil, err
	}
	resolved, err := i.mounts.claim(w)
	if err != nil {
		i.ports.release(i.ref, false)
	}
	if errors.Is(err, bind.ErrRefused) && !errors.Is(err, bind.ErrAbsent) && !errors.Is(err, bind.ErrUnseen) {
		err = workload.NotAllowed(err)
	}
	return resolved, err
}

// Remove implements workload.Instance.
func (i *instance) Remove(ctx context.Context, retention wire.VolumeRetention) ([]workload.Step, error) {
	volumes, err := i.runtime.Volumes(ctx, i.ref)
	if err != nil {
		return nil, err
	}
	for _, c := range i.containers {
		volumes = append(volumes, adoptable(c)...)
	}
	i.probes.Watch(i.ref, nil)
	steps, err := i.steps(ctx, &plan.Workload{Ref: i.ref}, plan.Departure(i.ref, i.containers, volumes, retention, i.wanted.waves(i.ref)))
	if err != nil {
		return nil, err
	}
	secrets, err := i.removeSecrets(ctx, &plan.Workload{})
	if err != nil {
		return nil, err
	}
	networks, err := i.removeNetworks(ctx, &plan.Workload{})
	return slices.Concat(steps, secrets, networks), err
}

// removeSecrets lists the steps that remove the runtime's secrets of the
// Deployment that a workload does not use, and the volumes of files.
func (i *instance) removeSecrets(ctx context.Context, w *plan.Workload) (steps []workload.Step, err error) {
	names, err := i.runtime.Secrets(ctx, i.ref)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		used := slices.ContainsFunc(w.Services, func(s container.Spec) bool { _, uses := s.Secrets[name]; return uses })
		if !used {
			steps = append(steps, workload.Step{Name: "removing secret " + name, Do: func(ctx context.Context) error {
				return i.runtime.RemoveSecret(ctx, name)
			}})
		}
	}
	volumes, err := i.runtime.Volumes(ctx, i.ref)
	if err != nil || len(w.Services) == 0 { // those of a Deployment that leaves go with its volumes
		return steps, err
	}
	for _, name := range volumes {
		used := slices.ContainsFunc(w.Services, func(s container.Spec) bool {
			return slices.ContainsFunc(s.Files, func(f container.FileSet) bool { return f.Volume == name })
		})
		if container.IsFileVolume(name) && !used {
			steps = append(steps, workload.Step{Name: "removing files " + name, Do: func(ctx context.Context) error {
				return i.runtime.RemoveVolume(ctx, name)
			}})
		}
	}
	return steps, nil
}

// Halt implements workload.Instance.
func (i *instance) Halt(ctx context.Context) error {
	i.probes.Watch(i.ref, nil)
	running := slices.DeleteFunc(slices.Clone(i.containers), func(c container.Container) bool { return c.Ended() || c.Unstarted() })
	for _, wave := range inWaves(running, i.wanted.waves(i.ref)) {
		if err := sideBySide(wave, func(c container.Container) error { return i.stop(ctx, c) }); err != nil {
			return err
		}
	}
	return i.vacate(ctx, &container.Spec{})
}

// inWaves divides containers into those that are stopped side by side: what depends on others
// goes first.
func inWaves(list []container.Container, waves map[string]int) (divided [][]container.Container) {
	byWave := map[int][]container.Container{}
	for _, c := range list {
		byWave[waves[c.Service]] = append(byWave[waves[c.Service]], c)
	}
	for _, wave := range slices.Backward(slices.Sorted(maps.Keys(byWave))) {
		divided = append(divided, byWave[wave])
	}
	return divided
}

// Restart implements workload.Instance. A service that is just being replaced, and has no
// container that runs, is left to that.
func (i *instance) Restart(services []string) (steps []workload.Step, without []string) {
	var chosen []container.Container
	for _, service := range services {
		of := slices.DeleteFunc(slices.Clone(i.containers), func(c container.Container) bool {
			return c.Service != service || c.Unstarted() || c.Odd()
		})
		running := slices.IndexFunc(of, func(c container.Container) bool { return c.State == container.StateRunning })
		switch {
		case running >= 0:
			chosen = append(chosen, of[running])
		case len(of) == 1:
			chosen = append(chosen, of[0])
		default:
			without = append(without, service)
		}
	}
	if len(chosen) == 0 {
		return nil, without
	}
	names, grace := summary(chosen)
	return []workload.Step{{
		Name: "restarting container " + names, Within: grace + time.Duration(len(chosen))*beyondGrace,
		Do: func(ctx context.Context) error {
			return sideBySide(chosen, func(c container.Container) error { return i.restart(ctx, c) })
		},
	}}, without
}

// restart ends a container and starts it again, whatever became of its earlier runs.
func (i *instance) restart(ctx context.Context, c container.Container) error {
	if !c.Ended() {
		if err := i.stop(ctx, c); err != nil {
			return err
		}
	}
	i.log.Info("starting container", "container", c.Name)
	i.runs.Made(c.ID)
	// What was stopped must not stay so because the agent ends just now.
	return i.startOnceFree(context.WithoutCancel(ctx), c.ID, c.Mounts)
}

// State implements workload.Instance.
func (i *instance) State(w workload.Workload, now time.Time) workload.State {
	asked := of(w)
	if asked != nil {
		asked = i.waits.of(i.known(plan.AsBefore(i.present(asked), i.containers, false), false))
	}
	state := plan.State(asked, i.containers, now)
	if asked != nil && state.Error == "" {
		state.Note = i.moving.problem(asked)
	}
	if asked != nil && state.Phase == wire.PhaseRunning {
		i.refusals.ready(i.ref)
	}
	return state
}

func has(actions []plan.Action, kind plan.Kind) bool {
	return slices.ContainsFunc(actions, func(a plan.Action) bool { return a.Kind == kind })
}
