package device

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// What the tests see of the unexported parts.
const (
	Silence           = silence
	MaxReportedLabels = maxReportedLabels
)

// Labels applies the policy for labels.
func Labels(device string, allowed []string, foreign func(string) bool, info wire.DeviceInfo) (labels map[string]string, dropped []string) {
	labels, dropped, _ = labelPolicy{device: device, allowed: allowed, foreign: foreign}.apply(info)
	return labels, dropped
}

func LabelsOf(o metav1.Object, manager string) (map[string]bool, error) { return labelsOf(o, manager) }

func (p *Presence) State(device string) (last time.Time, present, settled bool) {
	return p.state(device)
}

// Expel throws a device out; RunLeaving tells it and drops it.
func (c *Controller) Expel(d *v1alpha1.Device) { c.expel(d) }

func (c *Controller) RunLeaving(ctx context.Context) {
	defer c.queue.ShutDown()
	c.runLeaving(ctx)
}

func (p *Presence) Sweep() time.Duration { return p.sweep() }

func (p *Presence) OnChange(f func(string)) { p.onChange(f) }

// NewStatus builds the status of a device.
func NewStatus(d *v1alpha1.Device, last time.Time, present, settled bool, reported []wire.Condition) *v1alpha1.DeviceStatus {
	return newStatus(d, sighting{last, present, settled}, reported)
}
