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
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/guard"
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

func (p *projector) Run(ctx context.Context) { _ = p.run(ctx) }

func (p *projector) Add(keys []assignment.Key) { p.add(keys) }

func (p *projector) Wait(ctx context.Context, ref wire.DeploymentRef) error { return p.wait(ctx, ref) }

func NewStatusWriter(c *client.Client, store cache.Store, table *assignment.Table, log *slog.Logger) *StatusWriter {
	return NewTellingStatusWriter(c, store, table, &record.FakeRecorder{}, log)
}

// NewTellingStatusWriter returns one whose events are seen.
func NewTellingStatusWriter(c *client.Client, store cache.Store, table *assignment.Table, recorder record.EventRecorder, log *slog.Logger) *StatusWriter {
	return newStatusWriter(c, store, table, recorder, nil, log)
}

// Flush writes what is due.
func (w *statusWriter) Flush(ctx context.Context) { w.flush(ctx) }

func (w *statusWriter) Run(ctx context.Context) { _ = w.run(ctx) }

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

// RenderCarefully renders a template as the table has it.
func RenderCarefully(tmpl *acceptance.Template, panics *guard.Panics, log *slog.Logger) ([]byte, error) {
	return carefulTemplate{tmpl, panics.Loop("assigner-templates", log)}.Render(nil)
}

// WatchReports watches bucket device-state, without a table: each report panics.
func (c *Controller) WatchReports(ctx context.Context) error { return c.watchStates(ctx) }

// Next returns what waits to be looked at. A table is there from then on.
func (c *Controller) Next(table *assignment.Table) (look func(context.Context) error) {
	i, _ := c.queue.Get()
	return func(ctx context.Context) error {
		defer c.queue.Done(i)
		c.table, c.status = table, newStatusWriter(nil, nil, table, nil, nil, c.Logger)
		return c.process(ctx, i)
	}
}

// ShutDown ends what New began.
func (c *Controller) ShutDown() {
	c.queue.ShutDown()
	c.history.fresh.ShutDown()
	c.history.settled.ShutDown()
}

func Same(now, then *v1alpha1.DeploymentStatus) bool { return same(now, then) }

func DeviceFacts(d *v1alpha1.Device) assignment.Device { return deviceFacts(d) }

func DeviceDiffers(old, now *v1alpha1.Device) bool { return deviceDiffers(old, now) }

func SelectorFacts(s labels.Selector) assignment.Selector { return selectorFacts(s) }

func Plausible(at, received time.Time) time.Time { return plausible(at, received) }
