package events

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/reconcile"
)

// counting counts the writes of a sink.
type counting struct {
	record.EventSink

	metrics *reconcile.Metrics
}

// CountWrites returns a sink that counts what is written to another one.
func CountWrites(sink record.EventSink, metrics *reconcile.Metrics) record.EventSink {
	return counting{sink, metrics}
}

// Create implements record.EventSink.
func (c counting) Create(e *corev1.Event) (*corev1.Event, error) {
	c.metrics.Wrote("Event", "new")
	return c.EventSink.Create(e)
}

// Update implements record.EventSink.
func (c counting) Update(e *corev1.Event) (*corev1.Event, error) {
	c.metrics.Wrote("Event", "again")
	return c.EventSink.Update(e)
}

// Patch implements record.EventSink.
func (c counting) Patch(before *corev1.Event, data []byte) (*corev1.Event, error) {
	c.metrics.Wrote("Event", "again")
	return c.EventSink.Patch(before, data)
}
