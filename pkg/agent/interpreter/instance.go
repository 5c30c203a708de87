package interpreter

import (
	"context"
	"fmt"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/interpreter"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// changeTimeout bounds apply without a bound of its own, and removals.
	changeTimeout = 2 * time.Minute
	// maxStepName bounds the name of a step.
	maxStepName = 200
)

// instance is what an interpreter has of a Deployment.
type instance struct {
	*Driver

	ref  wire.DeploymentRef
	seen interpreter.Observation
}

// Exists implements workload.Instance.
func (i instance) Exists() bool { return i.seen.Exists }

// Forbidden implements workload.Instance: the rules are the interpreter's.
func (i instance) Forbidden() ([]workload.Step, error) { return nil, nil }

func (i instance) request(method interpreter.Method, w *asked) *interpreter.Request {
	return &interpreter.Request{Method: method, Deployment: i.ref, Type: w.scoreType, Data: w.data, Objects: w.objects, Mark: w.mark}
}

// Plan implements workload.Instance. What takes steps is one step here.
func (i instance) Plan(ctx context.Context, w workload.Workload, _ bool) (p workload.Plan, err error) {
	wanted, ok := w.(asked)
	if !ok {
		return p, fmt.Errorf("%T is no workload of an interpreter", w)
	}
	a, err := i.ask(ctx, i.cfg.Patience, i.request(interpreter.MethodPlan, &wanted))
	if err != nil || a.Plan == nil || len(a.Steps) == 0 {
		return p, err
	}
	steps := a.Steps[:min(len(a.Steps), interpreter.MaxSteps)]
	within := min(max(time.Duration(a.WithinSeconds)*time.Second, 0), interpreter.MaxWithin)
	if within == 0 {
		within = changeTimeout
	}
	p.Steps = []workload.Step{{Name: plan.Cut(strings.Join(steps, ", "), maxStepName), Within: within, Do: func(ctx context.Context) error {
		defer i.note(i.ref, true)
		_, err := i.ask(ctx, within, i.request(interpreter.MethodApply, &wanted))
		return err
	}}}
	if p.Steps[0].Name == "" {
		p.Steps[0].Name = "applying the score"
	}
	return p, nil
}

// Remove implements workload.Instance.
func (i instance) Remove(_ context.Context, retention wire.VolumeRetention) ([]workload.Step, error) {
	if !i.Exists() {
		return nil, nil
	}
	return []workload.Step{{Name: "removing " + i.ref.String(), Do: func(ctx context.Context) error {
		_, err := i.ask(ctx, changeTimeout, &interpreter.Request{Method: interpreter.MethodRemove, Deployment: i.ref, Retention: retention})
		i.note(i.ref, err != nil)
		return err
	}}}, nil
}

// Halt implements workload.Instance.
func (i instance) Halt(ctx context.Context) error {
	if !i.Exists() {
		return nil
	}
	_, err := i.ask(ctx, changeTimeout, &interpreter.Request{Method: interpreter.MethodHalt, Deployment: i.ref})
	return err
}

// Restart implements workload.Instance: an interpreter has no services.
func (i instance) Restart(services []string) (steps []workload.Step, without []string) {
	return nil, services
}

// State implements workload.Instance.
func (i instance) State(w workload.Workload, now time.Time) workload.State {
	s := workload.State{Phase: wire.PhasePending, LastEvent: i.seen.ChangedAt}
	if s.LastEvent.After(now) { // the server would take it for news for ever
		s.LastEvent = now
	}
	wanted, known := w.(asked)
	if !i.Exists() || known && wanted.mark != i.seen.Mark {
		return s
	}
	switch i.seen.Phase {
	case wire.PhaseRunning:
		s.Phase, s.Note = wire.PhaseRunning, plan.Cut(i.seen.Note, maxText)
	case wire.PhaseFailed:
		s.Phase, s.Error = wire.PhaseFailed, plan.Cut(i.seen.Reason, maxText)
		if s.Error == "" {
			s.Error = "the interpreter does not say why"
		}
	}
	return s
}
