package assigner

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// What the tests see of the unexported parts.
type (
	Projector    = projector
	StatusWriter = statusWriter
)

func NewProjector(kv jetstream.KeyValue, table *assignment.Table, log *slog.Logger) *Projector {
	return newProjector(kv, table, nil, log)
}

func (p *projector) Run(ctx context.Context) { p.run(ctx) }

func (p *projector) Add(keys []assignment.Key) { p.add(keys) }

func (p *projector) Wait(ctx context.Context, ref wire.DeploymentRef) error { return p.wait(ctx, ref) }

func NewStatusWriter(c *client.Client, store cache.Store, table *assignment.Table, log *slog.Logger) *StatusWriter {
	return NewTellingStatusWriter(c, store, table, &record.FakeRecorder{}, log)
}

// NewTellingStatusWriter returns one whose events are seen.
func NewTellingStatusWriter(c *client.Client, store cache.Store, table *assignment.Table, recorder record.EventRecorder, log *slog.Logger) *StatusWriter {
	return newStatusWriter(c, store, table, func(*v1alpha1.Deployment) string { return "Invalid: it has no image" }, recorder, nil, log)
}

// Flush writes what is due.
func (w *statusWriter) Flush(ctx context.Context) { w.flush(ctx) }

func (w *statusWriter) Run(ctx context.Context) { w.run(ctx) }

func (w *statusWriter) Add(refs []wire.DeploymentRef) { w.add(refs) }

func NewStatus(c assignment.Counts, accepted bool, generation int64, previous *v1alpha1.DeploymentStatus) *v1alpha1.DeploymentStatus {
	return newStatus(c, accepted, generation, previous)
}

func Conditions(c assignment.Counts, accepted bool) []metav1.Condition {
	return conditions(c, accepted)
}

func PhaseOf(c assignment.Counts, accepted bool) Phase { return phaseOf(c, accepted) }

func Readiness(c assignment.Counts, accepted bool) []metav1.Condition {
	return readiness(c, accepted)
}

func Same(now, then *v1alpha1.DeploymentStatus) bool { return same(now, then) }

func DeviceFacts(d *v1alpha1.Device) assignment.Device { return deviceFacts(d) }

func DeviceDiffers(old, now *v1alpha1.Device) bool { return deviceDiffers(old, now) }

func SelectorFacts(s labels.Selector) assignment.Selector { return selectorFacts(s) }

func Plausible(at, received time.Time) time.Time { return plausible(at, received) }
