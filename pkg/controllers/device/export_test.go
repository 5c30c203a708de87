package device

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// What the tests see of the unexported parts.
const (
	MaxReportedLabels = maxReportedLabels
)

// Labels applies the policy for labels to a Device without an architecture.
func Labels(device string, allowed []string, foreign func(string) bool, info wire.DeviceInfo) (labels map[string]string, dropped []string) {
	g := labelPolicy{device: device, allowed: allowed, foreign: foreign}.apply(info)
	return g.labels, g.dropped
}

// Arch applies the policy for labels to a Device that has an architecture.
func Arch(arch string, foreign func(string) bool, info wire.DeviceInfo) (label string, other bool) {
	g := labelPolicy{device: "edge-1", foreign: foreign, arch: arch}.apply(info)
	return g.labels[v1alpha1.LabelArch], g.otherArch
}

func LabelsOf(o metav1.Object, manager string) (map[string]bool, error) { return labelsOf(o, manager) }

// Refuse refuses a device that is revoked; RunLeaving tells it and drops it.
func (c *Controller) Refuse(d *v1alpha1.Device) { c.refuse(d) }

func (c *Controller) RunLeaving(ctx context.Context) {
	defer c.queue.ShutDown()
	c.runLeaving(ctx)
}

// NewStatus builds the status of a device.
func NewStatus(d *v1alpha1.Device, last time.Time, present, settled bool, reported []wire.Condition) *v1alpha1.DeviceStatus {
	return newStatus(d, sighting{last: last, present: present, settled: settled}, reported)
}

// NewRefusedStatus builds the status of a device whose keys are refused.
func NewRefusedStatus(d *v1alpha1.Device) *v1alpha1.DeviceStatus {
	return newStatus(d, sighting{settled: true, refused: true}, nil)
}

// NewTooOldStatus builds the status of a device whose agent is refused.
func NewTooOldStatus(d *v1alpha1.Device, settled bool) *v1alpha1.DeviceStatus {
	return newStatus(d, sighting{settled: settled, tooOld: true}, nil)
}

// ReasonOf names why a status is written.
func ReasonOf(old, now *v1alpha1.DeviceStatus) string { return reasonOf(old, now) }

// Abbreviated is as much of a hash as people compare.
func Abbreviated(hash string) string { return abbreviated(hash) }

// Report makes the controller know what a device reports, as the bucket does.
func (c *Controller) Report(device string, info wire.DeviceInfo) {
	c.reports[device] = report{info: info, digest: wire.Sum(fmt.Append(nil, info))}
}

func (c *Controller) WriteReport(ctx context.Context, d *v1alpha1.Device) (changed bool, err error) {
	return c.writeReport(ctx, d)
}

// Arrives is how long to wait for a device that enrolled.
func (c *Controller) Arrives(d *v1alpha1.Device) time.Duration { return c.arrives(d) }

// Release lets a deleted Device go.
func (c *Controller) Release(ctx context.Context, d *v1alpha1.Device) error { return c.release(ctx, d) }

func (c *Controller) WriteStatus(ctx context.Context, d *v1alpha1.Device) error {
	return c.writeStatus(ctx, d)
}

// IsOwnStatus reports whether a version of a Device is what our status made of another.
func (c *Controller) IsOwnStatus(d *v1alpha1.Device) bool { return c.isOwnStatus(d) }

// ShutDown ends what New began.
func (c *Controller) ShutDown() {
	c.queue.ShutDown()
	c.leaving.ShutDown()
}
