package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Errors of Agent.Restart; match them with errors.Is.
var (
	// errNothingToRestart: there is nothing of a service that could be restarted.
	errNothingToRestart = errors.New("has no container that can be restarted now: fleet-agent status says why")
	// errNotHere: the agent is to run no such Deployment.
	errNotHere = errors.New("does not run on this device, or not for long")
	// errHalted: the device was revoked.
	errHalted = errors.New("this device was revoked, and runs nothing until it is enrolled again")
)

// restarts are what people asked to restart, until a pass takes it on.
type restarts struct {
	mu    sync.Mutex // guards byRef
	byRef map[wire.DeploymentRef][]*restart
}

// restart is a request about services of one Deployment.
type restart struct {
	services []string
	// done gets the outcome; it has room for it.
	done chan error
}

func newRestarts() *restarts { return &restarts{byRef: map[wire.DeploymentRef][]*restart{}} }

func (r *restarts) add(ref wire.DeploymentRef, asked ...*restart) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byRef[ref] = append(r.byRef[ref], asked...)
}

func (r *restarts) take(ref wire.DeploymentRef) []*restart {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.byRef[ref]
	delete(r.byRef, ref)
	return asked
}

// withdraw takes a request back that no pass took on.
func (r *restarts) withdraw(ref wire.DeploymentRef, asked *restart) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byRef[ref] = slices.DeleteFunc(r.byRef[ref], func(o *restart) bool { return o == asked })
	if len(r.byRef[ref]) == 0 {
		delete(r.byRef, ref)
	}
}

// Restart implements control.Agent: it ends services as they are asked to end, and starts them again, without a pause
// and without counting that as a failure. It returns once they were started, or why not,
// or when ctx ends.
func (a *Agent) Restart(ctx context.Context, names []services.Name) error {
	byRef := map[wire.DeploymentRef]*restart{}
	for _, n := range names {
		if byRef[n.DeploymentRef] == nil {
			byRef[n.DeploymentRef] = &restart{done: make(chan error, 1)}
		}
		byRef[n.DeploymentRef].services = append(byRef[n.DeploymentRef].services, n.Service)
	}
	for ref, asked := range byRef {
		a.cfg.Log.Info("the operator restarts services", "deployment", ref.String(), "services", strings.Join(asked.services, ","))
		a.reconciler.restarts.add(ref, asked)
		a.queue.Now(ref)
	}
	var failures []string
	for _, ref := range slices.SortedFunc(maps.Keys(byRef), wire.DeploymentRef.Compare) {
		select {
		case err := <-byRef[ref].done:
			if err != nil {
				failures = append(failures, err.Error())
			}
		case <-ctx.Done():
			a.reconciler.restarts.withdraw(ref, byRef[ref])
			return ctx.Err()
		}
	}
	if len(failures) > 0 {
		return errors.New(strings.Join(failures, "; "))
	}
	return nil
}

// restart takes on what people asked to restart, and returns a function that answers them
// at the end of the pass: by then its report says how the services are.
func (p *pass) restart(ctx context.Context, asked []*restart) (answer func()) {
	if len(asked) == 0 {
		return func() {}
	}
	outcomes := map[*restart]error{}
	for _, r := range asked {
		err := p.restartServices(ctx, r.services)
		if errors.Is(err, errSuperseded) {
			p.restarts.add(p.ref, r) // the next pass comes at once
			continue
		}
		outcomes[r] = err
	}
	if err := p.observe(ctx); err != nil {
		p.log.Debug("services that were restarted were not looked at", "deployment", p.ref.String(), "error", err)
	}
	return func() {
		for r, err := range outcomes {
			r.done <- err
		}
	}
}

// restartServices restarts what any driver has of services.
func (p *pass) restartServices(ctx context.Context, names []string) error {
	for _, v := range p.views {
		steps, without := v.Restart(names)
		if err := p.execute(ctx, steps); err != nil {
			return err
		}
		names = without
	}
	if len(names) > 0 {
		return fmt.Errorf("service %s of %s %w", strings.Join(names, ", "), p.ref, errNothingToRestart)
	}
	return nil
}

// refuse answers all who asked with an error.
func refuse(asked []*restart, err error) {
	for _, r := range asked {
		r.done <- err
	}
}
