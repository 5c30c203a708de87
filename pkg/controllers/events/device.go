package events

import (
	"cmp"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// OfDevice returns what happened to a device by what its status was and becomes. It is
// pure.
func OfDevice(d *v1alpha1.Device, now *v1alpha1.DeviceStatus) (events []Event) {
	before := &d.Status
	if len(before.Conditions) == 0 && d.Spec.Enrollment != nil {
		events = append(events, deviceEnrolled(d.Spec.Enrollment))
	}
	was, is := isTrue(before.Conditions, v1alpha1.DeviceConnected), isTrue(now.Conditions, v1alpha1.DeviceConnected)
	switch {
	case is && !was:
		events = append(events, normal("Connected", "the device is connected"))
	case was && !is && !d.Spec.Revoked:
		events = append(events, normal("Disconnected", "no message arrives from the device: it keeps running what it runs"))
	}
	if renewed(before.CertificateExpires, now.CertificateExpires) {
		events = append(events, normal("Renewed", "the device has a new certificate, which expires at %s", now.CertificateExpires.UTC().Format(time.RFC3339)))
	}
	if is && was { // what is unknown while it is away is no news when it comes back
		events = append(events, healthOf(before.Conditions, now.Conditions)...)
	}
	return events
}

// healthOf tells which conditions that a device reports became bad, or good again.
func healthOf(before, now []metav1.Condition) (events []Event) {
	for _, c := range []struct {
		typ      string
		good     metav1.ConditionStatus
		bad, ok  string
		fallback string
	}{
		{v1alpha1.DevicePodmanReady, metav1.ConditionTrue, "Unhealthy", "Healthy", "podman does not answer"},
		{v1alpha1.DeviceDiskPressure, metav1.ConditionFalse, "DiskPressure", "DiskPressureOver", "the disk is nearly full"},
		{v1alpha1.DeviceManifestHeld, metav1.ConditionFalse, "ManifestHeld", "ManifestReleased", "the device holds a manifest"},
	} {
		was, is := meta.FindStatusCondition(before, c.typ), meta.FindStatusCondition(now, c.typ)
		if was == nil || is == nil || is.Status == metav1.ConditionUnknown || was.Status == is.Status {
			continue
		}
		if is.Status == c.good && was.Status != metav1.ConditionUnknown {
			events = append(events, normal(c.ok, "condition %s is %s again", c.typ, is.Status))
		} else if is.Status != c.good {
			events = append(events, warning(c.bad, "%s", cmp.Or(is.Message, c.fallback)))
		}
	}
	return events
}

func deviceEnrolled(e *v1alpha1.DeviceEnrollment) Event {
	if e.Token == "" {
		return normal("Enrolled", "the device enrolled")
	}
	return normal("Enrolled", "the device enrolled with token %s", e.Token)
}

// DeviceApproved tells that an operator approved the request of a device.
func DeviceApproved(fingerprint string) Event {
	return normal("Approved", "an operator approved the device with the key %s", fingerprint)
}

// DeviceRevoked tells that a device is refused for good.
func DeviceRevoked(how string) Event {
	return warning("Revoked", "the device was %s: its key is refused for good", how)
}

// renewed reports whether a certificate is another one, which lasts longer.
func renewed(before, now *metav1.Time) bool {
	return before != nil && now != nil && now.After(before.Time)
}

func isTrue(conditions []metav1.Condition, typ string) bool {
	return meta.IsStatusConditionTrue(conditions, typ)
}
