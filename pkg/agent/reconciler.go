package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/agent/queue"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// errUnhealthy: the workload is what the score asks for, but does not run as it
// should. It slows down the passes of a Deployment that crashes all the time.
var errUnhealthy = errors.New("the workload does not run as it should")

// errNoBody: the score of a Deployment is not on the device.
var errNoBody = errors.New("the score is not on this device yet")

// reconciler makes what there is of one Deployment what it should be.
type reconciler struct {
	drivers  workload.Drivers
	store    *store.Store
	link     Link
	desired  *desired
	reporter *reporter
	log      *slog.Logger
	troubles *troubles
	// retry runs a Deployment again whose hindrance is gone.
	retry func(wire.DeploymentRef)
	// restarts are what people asked to restart.
	restarts *restarts
	// halted reports whether nothing may run on the device.
	halted func() bool
	// changed is called when something else is to run, or does.
	changed func()
	// stale is called when another session of the device took over.
	stale func()
	// slots and fetches are counting semaphores.
	slots, fetches chan struct{}
}

// restore gives what was applied before the agent started what it had.
func (r *reconciler) restore() {
	for _, ref := range r.desired.refs() {
		body := r.store.Body(r.desired.target(ref).applied)
		if body == nil {
			continue
		}
		if driver, w, err := r.drivers.Parse(ref, body); err == nil {
			workload.Grant(driver, w)
		}
	}
}

// reconcile is one pass for one Deployment.
func (r *reconciler) reconcile(ctx context.Context, ref wire.DeploymentRef, run queue.Run) (queue.Result, error) {
	target, asked := r.desired.target(ref), r.restarts.take(ref)
	if !target.known || target.verdict == plan.Leave {
		refuse(asked, fmt.Errorf("%s %w", ref, errNotHere))
		asked = nil
	}
	if !target.known {
		r.drivers.Forget(ref)
		r.troubles.clear(ref)
		r.reporter.gone(ref)
		return queue.Result{Done: true}, nil
	}
	p := &pass{reconciler: r, ref: ref, target: target, run: run}
	if err := p.observe(ctx); err != nil {
		refuse(asked, err)
		return queue.Result{}, p.unseen(ctx, err)
	}
	if r.halted() {
		refuse(asked, errHalted)
		return queue.Result{}, p.halt(ctx)
	}
	defer r.retryUnblocked()
	if target.verdict == plan.Leave {
		return p.leave(ctx)
	}
	defer p.restart(ctx, asked)()
	return p.converge(ctx)
}

// retryUnblocked runs Deployments that can have now what others had.
func (r *reconciler) retryUnblocked() {
	for _, ref := range r.drivers.Unblocked() {
		r.retry(ref)
	}
}

// pass is the state of one run of reconcile.
type pass struct {
	*reconciler

	ref    wire.DeploymentRef
	target target
	run    queue.Run
	// views are what the drivers see of the Deployment.
	views []view
	// silent: a driver could not look at the Deployment, and no condition of the device
	// says so.
	silent bool
	// driver takes the score, and workload is what that asks for; nil while the score
	// is not known.
	driver   workload.Driver
	workload workload.Workload
	// digest is that of the Secrets which the pass is about.
	digest string
	// waiting is what to report before something that takes long. What takes a
	// moment is not worth a report of its own: the server counts a device as
	// pending until it reports about the score that was issued.
	waiting plan.Outcome
}

// halt stops what runs. It stays on the device.
func (p *pass) halt(ctx context.Context) error {
	for _, v := range p.views {
		if err := v.Halt(ctx); err != nil {
			return err
		}
	}
	return nil
}

// leave removes the Deployment.
func (p *pass) leave(ctx context.Context) (queue.Result, error) {
	existed := p.exists()
	if err := p.remove(ctx); err != nil {
		return queue.Result{}, p.fail(ctx, p.target.applied, fmt.Errorf("removing: %w", err))
	}
	if _, told := p.reporter.last(p.ref); !told || existed {
		p.log.Info("deployment removed", "deployment", p.ref.String())
	}
	p.drivers.Forget(p.ref)
	p.troubles.clear(p.ref)
	p.reportRemoved()
	return queue.Result{Done: true}, nil
}

// remove removes what any driver has of the Deployment.
func (p *pass) remove(ctx context.Context) error {
	var steps []workload.Step
	for _, v := range p.views {
		more, err := v.Remove(ctx, p.target.retention)
		if err != nil {
			return err
		}
		steps = append(steps, more...)
	}
	return p.execute(ctx, steps)
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

// converge makes what there is what the score asks for.
func (p *pass) converge(ctx context.Context) (queue.Result, error) {
	refused, err := p.removeForbidden(ctx)
	if err != nil {
		return queue.Result{}, err
	}
	if p.incomplete() {
		if _, err := p.reviveAndLook(ctx); err != nil {
			return queue.Result{}, err
		}
	}
	hash, body, bodyErr := p.body(ctx)
	if body == nil && refused != nil {
		return queue.Result{}, p.fail(ctx, hash, refused)
	}
	if body == nil {
		return p.withoutBody(ctx, hash, bodyErr)
	}
	if err := p.parse(body); err != nil {
		return queue.Result{}, p.fail(ctx, hash, err)
	}
	contents, err := p.secrets(ctx)
	if err != nil {
		return p.withoutBody(ctx, hash, err)
	}
	if p.workload, err = p.workload.WithSecrets(contents); err != nil {
		return queue.Result{}, p.fail(ctx, hash, err)
	}
	again, err := p.apply(ctx, hash)
	if err != nil {
		return queue.Result{}, err
	}
	return p.applied(ctx, hash, again, bodyErr)
}

// removeForbidden removes what must not run on this device, whoever made and
// started it, and returns why the first of it had to go.
func (p *pass) removeForbidden(ctx context.Context) (refused, err error) {
	removed := false
	for _, v := range p.views {
		steps, reason := v.Forbidden()
		refused = cmp.Or(refused, reason)
		if err := p.execute(ctx, steps); err != nil {
			return refused, err
		}
		removed = removed || len(steps) > 0
	}
	if removed {
		err = p.observe(ctx)
	}
	return refused, err
}

// parse finds the driver that takes a body, and what the body asks for.
func (p *pass) parse(body []byte) error {
	driver, w, err := p.drivers.Parse(p.ref, body)
	if err != nil {
		return err
	}
	p.driver, p.workload = driver, w
	if p.view() == nil { // the manifest gives another type than the body
		return fmt.Errorf("driver of %s: %w", driver.About().Name, workload.ErrUnavailable)
	}
	return nil
}

// apply plans and acts. It returns when there may be more to do. Errors were
// reported.
func (p *pass) apply(ctx context.Context, hash string) (again time.Time, err error) {
	renewed := hash != p.target.applied || p.digest != p.target.appliedSecrets
	todo, err := p.planned(ctx, renewed)
	if err != nil {
		return again, p.fail(ctx, hash, err)
	}
	steps, err := p.replacing(ctx, todo.Steps)
	if err == nil && len(steps) > 0 {
		p.waiting = plan.Outcome{Hash: hash, Waiting: true}
		err = p.execute(ctx, steps)
	}
	if err != nil {
		workload.Release(p.driver, p.ref)
		return again, p.fail(ctx, hash, err)
	}
	p.forgetOthers()
	if len(steps) > 0 {
		err = p.observe(ctx)
	}
	return todo.Again, err
}

// applied ends a pass in which there is what body asks for. bodyErr is why it is
// not the body that the manifest names.
func (p *pass) applied(ctx context.Context, hash string, again time.Time, bodyErr error) (queue.Result, error) {
	if bodyErr != nil {
		return p.withoutBody(ctx, p.target.entry.Hash, bodyErr)
	}
	p.troubles.clear(p.ref)
	if err := p.desired.apply(p.ref, hash, p.digest); err != nil {
		return queue.Result{}, fmt.Errorf("remembering what was applied: %w", err)
	}
	changes := p.report(plan.Outcome{Hash: hash})
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
		body, err = p.fetchBody(ctx, p.target.entry)
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

// fetchBody returns the body of an entry from the disk or else from the server.
func (p *pass) fetchBody(ctx context.Context, e wire.Entry) ([]byte, error) {
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

// fail reports an error and returns it, so that the pass is tried again later.
// What was cut off by the end of the agent or by a newer manifest is no failure.
func (p *pass) fail(ctx context.Context, hash string, err error) error {
	if ctx.Err() != nil || errors.Is(err, errSuperseded) {
		return err
	}
	if errors.Is(err, workload.ErrUnavailable) {
		return err // a condition of the device, not of the Deployment
	}
	since := p.troubles.note(p.ref, hash, err)
	if p.observe(ctx) == nil { // otherwise the report is about what was seen last
		_, _ = p.reviveAndLook(ctx)
	}
	p.report(plan.Outcome{Hash: hash, Err: err, Since: since})
	return err
}

// report hands the state of the Deployment to the reporter, and returns when
// it would read differently although nothing happened.
func (p *pass) report(o plan.Outcome) (again time.Time) {
	o.Ref, o.SecretsDigest, o.State = p.ref, p.digest, p.state()
	report, again := plan.Report(o)
	if e := p.target.entry; e.Hash == report.Hash {
		report.Revision = e.Revision
	}
	if last, ok := p.reporter.last(p.ref); !ok || last.Phase != report.Phase || last.Hash != report.Hash {
		p.log.Info("deployment changed", "deployment", p.ref.String(), "phase", report.Phase, "reason", report.Error)
		p.changed()
	}
	if o.Waiting && len(report.Containers) == 0 {
		report.LastEventAt = p.firstSeen(report)
	}
	p.reporter.set(report)
	return again
}

// firstSeen dates a report about a Deployment of which there is nothing that has
// times: when the agent first said the same.
func (p *pass) firstSeen(s wire.DeploymentState) time.Time {
	if last, ok := p.reporter.last(p.ref); ok && last.Phase == s.Phase && last.Hash == s.Hash {
		return last.LastEventAt
	}
	return time.Now().UTC()
}
