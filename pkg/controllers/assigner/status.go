package assigner

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/events"
	"fleet.nationtech.io/fleet/pkg/dirty"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	statusManager = "fleet-status"
	// statusInterval is how often the status of Deployments is written at most.
	statusInterval = time.Second
)

// statusWriter writes the status of Deployments: at most once an interval, and
// only what changed. The first change after a quiet time is written at once.
type statusWriter struct {
	client   *client.Client
	store    cache.Store
	table    *assignment.Table
	recorder record.EventRecorder
	metrics  *reconcile.Metrics
	log      *slog.Logger
	guard    *guard.Guard
	dirty    *dirty.Set[wire.DeploymentRef]

	// written is what the API is known to hold; only run uses it.
	written map[wire.DeploymentRef]written
}

// written is the status of one object: another of the same name has its own.
type written struct {
	uid    types.UID
	status *v1alpha1.DeploymentStatus
	// failing is the number of failed devices that an event told last.
	failing int
}

func newStatusWriter(c *client.Client, store cache.Store, table *assignment.Table, recorder record.EventRecorder, metrics *reconcile.Metrics, log *slog.Logger) *statusWriter {
	return &statusWriter{
		client: c, store: store, table: table, recorder: recorder, metrics: metrics, log: log,
		guard: metrics.Loop("deployment-status", log), dirty: dirty.NewSet[wire.DeploymentRef](), written: map[wire.DeploymentRef]written{},
	}
}

func (w *statusWriter) add(refs []wire.DeploymentRef) { w.dirty.Add(refs...) }

// run works until ctx ends.
func (w *statusWriter) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.dirty.Wake():
		}
		timer.Reset(statusInterval)
		w.flush(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
	}
}

func (w *statusWriter) flush(ctx context.Context) {
	for _, ref := range w.dirty.Take() {
		if err := w.guard.Try(func() error { return w.write(ctx, ref) }, "deployment", ref.String()); err != nil && ctx.Err() == nil {
			w.log.Warn("writing the status of a Deployment", "deployment", ref.String(), "error", err)
			w.dirty.Add(ref)
		}
	}
}

func (w *statusWriter) write(ctx context.Context, ref wire.DeploymentRef) error {
	counts, accepted, ok := w.table.Aggregate(ref)
	o, exists, err := w.store.GetByKey(ref.String())
	if err != nil || !ok || !exists {
		delete(w.written, ref)
		return err
	}
	d := o.(*v1alpha1.Deployment)
	known, ok := w.written[ref]
	if !ok || known.uid != d.UID {
		known = written{d.UID, &d.Status, events.Failing(&d.Status)}
	}
	now := newStatus(counts, accepted, counts.Generation, known.status)
	if !accepted {
		now.Aggregate.LastError = refused(counts.Refusal)
	}
	if same(now, known.status) {
		w.written[ref] = written{d.UID, now, known.failing}
		return nil
	}
	w.metrics.Wrote("Deployment", "status")
	_, err = client.Apply(ctx, w.client.Deployments(ref.Namespace), statusManager, "Deployment", ref.Name,
		map[string]any{"status": now}, "status")
	if apierrors.IsNotFound(err) {
		delete(w.written, ref)
		return nil
	}
	if err != nil {
		return fmt.Errorf("applying: %w", err)
	}
	news, failing := events.OfRollout(known.status, now, known.failing)
	w.written[ref] = written{d.UID, now, failing}
	events.Record(w.recorder, d, news...)
	return nil
}

// refused is the error of a Deployment whose score is not accepted, which is no device's.
func refused(r assignment.Refusal) *v1alpha1.DeviceError {
	if r == (assignment.Refusal{}) {
		return nil
	}
	return &v1alpha1.DeviceError{Message: r.Reason + ": " + r.Message}
}

// newStatus builds the part of the status that this controller owns.
func newStatus(c assignment.Counts, accepted bool, generation int64, previous *v1alpha1.DeploymentStatus) *v1alpha1.DeploymentStatus {
	s := &v1alpha1.DeploymentStatus{
		ObservedGeneration: generation,
		Aggregate: &v1alpha1.Aggregate{
			MatchedDeviceCount: c.Matched, Succeeded: c.Succeeded, Failed: c.Failed, Pending: c.Pending, Offline: c.Offline, Outdated: c.Outdated,
		},
	}
	if f := c.Newest; f != nil {
		// The API stores whole seconds; anything finer would look changed for ever.
		at := metav1.NewTime(f.LastEventAt.UTC().Truncate(time.Second))
		s.Aggregate.LastError = &v1alpha1.DeviceError{Device: f.Device, Message: f.Error, Time: &at}
	}
	if p := c.Progress; p != nil {
		s.Aggregate.Progress = &v1alpha1.DeviceProgress{Device: p.Device, Message: p.Text}
	}
	for _, condition := range append(conditions(c, accepted), readiness(c, accepted)...) {
		if old := meta.FindStatusCondition(previous.Conditions, condition.Type); old != nil {
			s.Conditions = append(s.Conditions, *old)
		}
		condition.ObservedGeneration = generation
		meta.SetStatusCondition(&s.Conditions, condition)
	}
	return s
}

func conditions(c assignment.Counts, accepted bool) []metav1.Condition {
	progressing := metav1.Condition{Type: v1alpha1.DeploymentProgressing, Status: metav1.ConditionFalse}
	available := metav1.Condition{Type: v1alpha1.DeploymentAvailable, Status: metav1.ConditionFalse}
	set := func(reason, message string) {
		progressing.Reason, available.Reason = reason, reason
		progressing.Message, available.Message = message, message
	}
	running := fmt.Sprintf("%d of %d devices run the current score", c.Succeeded, c.Matched) + outdated(c.Outdated)
	switch phaseOf(c, accepted) {
	case Refused:
		set(v1alpha1.ReasonHeld, "the score is not accepted: devices keep what they run")
	case Accepted:
		set(v1alpha1.ReasonNoDevicesMatched, "the target selector matches no device")
	case Failed:
		set(v1alpha1.ReasonDevicesFailed, fmt.Sprintf("%s, %d failed: see status.aggregate.lastError", running, c.Failed))
	case RollingOut:
		set(v1alpha1.ReasonRolling, running)
	default:
		set(v1alpha1.ReasonComplete, running)
		available.Status = metav1.ConditionTrue
	}
	if accepted && c.Pending > 0 {
		progressing.Status, progressing.Reason, progressing.Message = metav1.ConditionTrue, v1alpha1.ReasonRolling, running
	}
	return []metav1.Condition{progressing, available}
}

func outdated(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return ", 1 device needs a newer agent"
	}
	return fmt.Sprintf(", %d devices need a newer agent", n)
}

// same compares the parts that this controller owns.
func same(now, then *v1alpha1.DeploymentStatus) bool {
	if now.ObservedGeneration != then.ObservedGeneration || !equality.Semantic.DeepEqual(now.Aggregate, then.Aggregate) {
		return false
	}
	for _, condition := range now.Conditions {
		old := meta.FindStatusCondition(then.Conditions, condition.Type)
		if old == nil || !equality.Semantic.DeepEqual(*old, condition) {
			return false
		}
	}
	return sameProblem(now.Conditions, then.Conditions)
}
