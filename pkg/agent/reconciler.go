package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/interpret"
	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/agent/queue"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// maxActions bounds the containers that start or stop at one time: each start
	// is a second of CPU on a small board.
	maxActions = 4
	// maxPulls bounds the images that are pulled at one time. A pull holds no
	// place among the actions, so that one slow registry delays no other start.
	maxPulls = 3
	// actionTimeout bounds one action but for pulls: podman takes ten seconds to
	// stop a container that does not want to, and is slow on a slow card.
	actionTimeout = 2 * time.Minute
	// pullTimeout bounds a pull: 1 GB over 5 Mbit/s takes 27 minutes.
	pullTimeout = time.Hour
)

// errUnhealthy: the containers are what the score asks for, but do not run as
// they should. It slows down the passes of a Deployment that crashes all the time.
var errUnhealthy = errors.New("a container does not run as it should")

// errNoBody: the score of a Deployment is not on the device.
var errNoBody = errors.New("the score is not on this device yet")

// reconciler makes the containers of one Deployment what they should be.
type reconciler struct {
	runtime      container.Runtime
	store        *store.Store
	link         Link
	trust        func(registry string) error
	desired      *desired
	reporter     *reporter
	interpreters interpret.Registry
	mounts       *mounts
	log          *slog.Logger
	ports        *ports
	troubles     *troubles
	// retry runs a Deployment again whose hindrance is gone.
	retry func(wire.DeploymentRef)
	// halted reports whether nothing may run on the device.
	halted func() bool
	// stale is called when another session of the device took over.
	stale func()
	// slots and pulls are counting semaphores.
	slots, pulls chan struct{}
}

// restore gives what was applied before the agent started its host ports.
func (r *reconciler) restore() {
	for _, ref := range r.desired.refs() {
		body := r.store.Body(r.desired.target(ref).applied)
		if body == nil {
			continue
		}
		if w, err := r.interpreters.Interpret(ref, body); err == nil {
			r.ports.restore(w)
		}
	}
}

// reconcile is one pass for one Deployment.
func (r *reconciler) reconcile(ctx context.Context, ref wire.DeploymentRef, run queue.Run) (queue.Result, error) {
	target := r.desired.target(ref)
	if !target.known {
		r.ports.release(ref, true)
		r.mounts.release(ref)
		r.troubles.clear(ref)
		r.reporter.gone(ref)
		return queue.Result{Done: true}, nil
	}
	observed, err := r.runtime.List(ctx, ref)
	if err != nil {
		return queue.Result{}, fmt.Errorf("observing %s: %w", ref, err)
	}
	r.mounts.seeOf(ref, observed)
	p := &pass{reconciler: r, ref: ref, target: target, observed: observed, run: run}
	if r.halted() {
		return queue.Result{}, p.halt(ctx)
	}
	defer r.retryFreed()
	if target.verdict == plan.Leave {
		return p.leave(ctx)
	}
	return p.converge(ctx)
}

// retryFreed runs Deployments whose host ports became free.
func (r *reconciler) retryFreed() {
	for _, ref := range r.ports.freed() {
		r.retry(ref)
	}
}

// pass is the state of one run of reconcile.
type pass struct {
	*reconciler
	ref      wire.DeploymentRef
	target   target
	observed []container.Container
	run      queue.Run
	// digest is that of the Secrets which the pass is about.
	digest string
	// waiting is what to report before something that takes long. What takes a
	// moment is not worth a report of its own: the server counts a device as
	// pending until it reports about the score that was issued.
	waiting plan.Outcome
}

// halt stops what runs. It stays on the device.
func (p *pass) halt(ctx context.Context) error {
	for _, c := range p.observed {
		if c.Ended() || c.Unstarted() {
			continue
		}
		p.log.Info("stopping container", "container", c.Name)
		if err := p.runtime.Stop(ctx, c.ID); err != nil {
			return err
		}
	}
	return nil
}

// leave removes the Deployment.
func (p *pass) leave(ctx context.Context) (queue.Result, error) {
	volumes, err := p.runtime.Volumes(ctx, p.ref)
	if err == nil {
		err = p.execute(ctx, plan.Departure(p.ref, p.observed, volumes, p.target.retention))
	}
	if err == nil {
		err = p.removeSecrets(ctx, nil)
	}
	if err != nil {
		return queue.Result{}, p.fail(ctx, p.target.applied, fmt.Errorf("removing: %w", err))
	}
	if _, told := p.reporter.last(p.ref); !told || len(p.observed) > 0 {
		p.log.Info("deployment removed", "deployment", p.ref.String())
	}
	p.ports.release(p.ref, true)
	p.mounts.release(p.ref)
	p.troubles.clear(p.ref)
	p.reportRemoved()
	return queue.Result{Done: true}, nil
}

// reportRemoved says once that the Deployment is gone.
func (p *pass) reportRemoved() {
	last, told := p.reporter.last(p.ref)
	if told && last.Phase == wire.PhaseRemoved {
		return
	}
	// The server may have learned it since this pass began.
	if !told && p.desired.target(p.ref).verdict != plan.Leave {
		return
	}
	p.reporter.set(wire.DeploymentState{DeploymentRef: p.ref, Phase: wire.PhaseRemoved, LastEventAt: time.Now().UTC()})
}

// converge makes the containers what the score asks for.
func (p *pass) converge(ctx context.Context) (queue.Result, error) {
	refused, err := p.removeRefused(ctx)
	if err != nil {
		return queue.Result{}, err
	}
	hash, body, bodyErr := p.body(ctx)
	if body == nil && refused != nil {
		return queue.Result{}, p.fail(ctx, hash, refused)
	}
	if body == nil {
		return p.withoutBody(ctx, hash, bodyErr)
	}
	workload, err := p.prepare(body)
	if err != nil {
		return queue.Result{}, p.fail(ctx, hash, err)
	}
	contents, err := p.secrets(ctx, workload)
	if err != nil {
		return p.withoutBody(ctx, hash, err)
	}
	if workload, err = workload.WithSecrets(p.digest, contents); err != nil {
		return queue.Result{}, p.fail(ctx, hash, err)
	}
	actions, again := plan.Changes(workload, p.observed, time.Now())
	if len(actions) > 0 {
		p.waiting = plan.Outcome{Hash: hash, Workload: workload, Waiting: true}
		if err := p.execute(ctx, actions); err != nil {
			p.ports.release(p.ref, false)
			return queue.Result{}, p.fail(ctx, hash, err)
		}
		if p.observed, err = p.runtime.List(ctx, p.ref); err != nil {
			return queue.Result{}, fmt.Errorf("observing %s: %w", p.ref, err)
		}
	}
	return p.applied(ctx, hash, workload, again, bodyErr)
}

// removeRefused stops and removes the containers whose mounts are not allowed,
// whoever made and started them, and returns why the first one had to go.
// To stop them is not enough: podman may start what is there.
func (p *pass) removeRefused(ctx context.Context) (refused, err error) {
	var allowed []container.Container
	for _, c := range p.observed {
		reason := p.mounts.check(&c)
		if reason == nil {
			allowed = append(allowed, c)
			continue
		}
		reason = fmt.Errorf("service %s: %w", c.Service, reason)
		p.log.Warn("container must not have its mounts", "container", c.Name, "error", reason)
		if err := p.do(ctx, plan.Action{Kind: plan.Remove, Container: c}); err != nil {
			return reason, err
		}
		refused = cmp.Or(refused, reason)
	}
	p.observed = allowed
	p.mounts.seeOf(p.ref, allowed)
	return refused, nil
}

// applied ends a pass in which the containers are what body asks for. bodyErr
// is why it is not the body that the manifest names.
func (p *pass) applied(ctx context.Context, hash string, workload *plan.Workload, again time.Time, bodyErr error) (queue.Result, error) {
	if bodyErr != nil {
		return p.withoutBody(ctx, p.target.entry.Hash, bodyErr)
	}
	p.troubles.clear(p.ref)
	if err := p.collectSecrets(ctx, workload); err != nil {
		return queue.Result{}, p.fail(ctx, hash, err)
	}
	if err := p.desired.apply(p.ref, hash, p.digest); err != nil {
		return queue.Result{}, fmt.Errorf("remembering what was applied: %w", err)
	}
	changes := p.report(plan.Outcome{Hash: hash, Workload: workload})
	result := queue.Result{At: sooner(again, changes)}
	if last, _ := p.reporter.last(p.ref); last.Phase == wire.PhaseFailed {
		return result, fmt.Errorf("%w: %s", errUnhealthy, last.Error)
	}
	return result, nil
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// body returns the body to apply. While the one that the manifest names cannot
// be had, it is the last one that was applied, and err says why.
func (p *pass) body(ctx context.Context) (hash string, body []byte, err error) {
	if p.target.verdict == plan.Apply {
		p.digest = p.target.entry.SecretsDigest
		body, err = p.fetch(ctx, p.target.entry)
		if err == nil {
			return p.target.entry.Hash, body, nil
		}
	}
	if p.target.applied == "" {
		return p.target.entry.Hash, nil, err
	}
	p.digest = p.target.appliedSecrets
	return p.target.applied, p.store.Body(p.target.applied), err
}

// fetch returns the body of an entry from the disk or else from the server.
func (p *pass) fetch(ctx context.Context, e wire.Entry) ([]byte, error) {
	if body := p.store.Body(e.Hash); body != nil {
		return body, nil
	}
	body, err := p.link.Body(ctx, e.Hash, e.Size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoBody, err)
	}
	if err := p.store.SaveBody(e.Hash, body); err != nil {
		return nil, err
	}
	return body, nil
}

// withoutBody ends a pass that could not have the body: what runs goes on.
// Without a connection that is to be waited for; a refusal is a failure.
func (p *pass) withoutBody(ctx context.Context, hash string, err error) (queue.Result, error) {
	if err == nil { // held or kept, and the body is lost: nothing to compare with
		p.report(plan.Outcome{Hash: hash})
		return queue.Result{}, nil
	}
	if isRefusal(err, wire.RefusedSession) {
		p.stale()
	}
	refusal, refused := errors.AsType[*wire.Refusal](err)
	if refused && !passing(refusal.Code) || !errors.Is(err, errNoBody) {
		return queue.Result{}, p.fail(ctx, hash, err)
	}
	if ctx.Err() == nil {
		p.report(plan.Outcome{Hash: hash, Waiting: true})
	}
	return queue.Result{}, err
}

// passing reports whether a refusal is about the device at present, and not
// about what it asked for.
func passing(code wire.RefusalCode) bool {
	return code == wire.RefusedSession || code == wire.RefusedQuarantined
}

// prepare interprets a body and checks what it asks of the device.
func (p *pass) prepare(body []byte) (*plan.Workload, error) {
	workload, err := p.interpreters.Interpret(p.ref, body)
	if err != nil {
		return nil, err
	}
	running := slices.ContainsFunc(p.observed, func(c container.Container) bool { return c.State == container.StateRunning })
	if err := p.ports.claim(workload, running); err != nil {
		return nil, err
	}
	resolved, err := p.mounts.claim(workload)
	if err != nil {
		p.ports.release(p.ref, false)
	}
	return resolved, err
}

// fail reports an error and returns it, so that the pass is tried again later.
// What was cut off by the end of the agent or by a newer manifest is no failure.
func (p *pass) fail(ctx context.Context, hash string, err error) error {
	if ctx.Err() != nil || errors.Is(err, errSuperseded) {
		return err
	}
	if errors.Is(err, container.ErrUnavailable) {
		return err // a condition of the device, not of the Deployment
	}
	since := p.troubles.note(p.ref, hash, err)
	if observed, listErr := p.runtime.List(ctx, p.ref); listErr == nil {
		p.observed = observed
	}
	p.report(plan.Outcome{Hash: hash, Err: err, Since: since})
	return err
}

// report hands the state of the Deployment to the reporter, and returns when
// it would read differently although nothing happened.
func (p *pass) report(o plan.Outcome) (again time.Time) {
	o.Ref, o.Observed, o.Now = p.ref, p.observed, time.Now()
	state, again := plan.State(o)
	state.SecretsDigest = p.digest
	if last, ok := p.reporter.last(p.ref); !ok || last.Phase != state.Phase || last.Hash != state.Hash {
		p.log.Info("deployment changed", "deployment", p.ref.String(), "phase", state.Phase, "reason", state.Error)
	}
	if o.Waiting && len(state.Containers) == 0 {
		state.LastEventAt = p.firstSeen(state)
	}
	p.reporter.set(state)
	return again
}

// firstSeen dates a report about a Deployment without containers, which have
// no times of their own: when the agent first said the same.
func (p *pass) firstSeen(s wire.DeploymentState) time.Time {
	if last, ok := p.reporter.last(p.ref); ok && last.Phase == s.Phase && last.Hash == s.Hash {
		return last.LastEventAt
	}
	return time.Now().UTC()
}
