package events

import (
	"cmp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// Reasons of events about whether a device is there.
const reasonConnected, reasonDisconnected = "Connected", "Disconnected"

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
		events = append(events, normal(reasonConnected, "the device is connected"))
	case was && !is && !d.Spec.Revoked:
		events = append(events, normal(reasonDisconnected, "no message arrives from the device: it keeps running what it runs"))
	}
	events = append(events, renderingOf(before.Conditions, now.Conditions)...)
	if is {
		events = append(events, healthOf(before.Conditions, now.Conditions)...)
	}
	return events
}

// renderingOf tells which Deployments cannot be rendered for the device any more, also while it
// is away, or that all can be again.
func renderingOf(before, now []metav1.Condition) []Event {
	was, is := meta.FindStatusCondition(before, v1alpha1.DeviceScoresRendered), meta.FindStatusCondition(now, v1alpha1.DeviceScoresRendered)
	switch {
	case is == nil || was != nil && was.Status == is.Status && was.Message == is.Message:
		return nil
	case is.Status == metav1.ConditionFalse:
		return []Event{warning(v1alpha1.ReasonRenderingFailed, "%s", is.Message)}
	case was == nil:
		return nil
	}
	return []Event{normal(v1alpha1.ReasonRendered, "%s", is.Message)}
}

// OfEnrollment returns what is told when a machine enrolls as a Device that was there before: one
// that takes the place of another, or the first of a Device that an operator prepared. It is
// pure. OfDevice tells of a Device whose status was never written.
func OfEnrollment(before, now *v1alpha1.Device) []Event {
	was, is := before.Spec.Enrollment, now.Spec.Enrollment
	switch {
	case is == nil || len(now.Status.Conditions) == 0:
		return nil
	case was != nil && was.Token == is.Token && was.TokenUse == is.TokenUse && was.EnrolledAt.Equal(is.EnrolledAt):
		return nil
	}
	return []Event{deviceEnrolled(is)}
}

// healthOf tells which conditions that a device reports became bad, or good again. What is
// unknown while a device is away is news when it comes back only if it is bad.
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
		{v1alpha1.DeviceScoresAllowed, metav1.ConditionTrue, "ScoresNotAllowed", "ScoresAllowed", "agent.yaml does not allow what a Deployment asks for"},
	} {
		was, is := statusOf(before, c.typ), meta.FindStatusCondition(now, c.typ)
		switch {
		case is == nil || is.Status == metav1.ConditionUnknown || is.Status == was:
		case is.Status != c.good:
			events = append(events, warning(c.bad, "%s", cmp.Or(is.Message, c.fallback)))
		case was != metav1.ConditionUnknown:
			events = append(events, normal(c.ok, "condition %s is %s again", c.typ, is.Status))
		}
	}
	return events
}

// statusOf is Unknown for a condition that is not there.
func statusOf(conditions []metav1.Condition, typ string) metav1.ConditionStatus {
	if c := meta.FindStatusCondition(conditions, typ); c != nil {
		return c.Status
	}
	return metav1.ConditionUnknown
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

// DeviceRenewed tells that a device has proven itself with the key that it renewed its
// certificate with, and when the new one expires.
func DeviceRenewed(expires time.Time) Event {
	return normal("Renewed", "the device has a new certificate, which expires at %s", expires.UTC().Format(time.RFC3339))
}

// DeviceRevoked tells that a device is refused for good.
func DeviceRevoked(how string) Event {
	return warning("Revoked", "the device was %s: its key is refused for good", how)
}

// AgentTooOld tells that the server refuses a device's agent.
func AgentTooOld() Event {
	return warning("AgentTooOld", "the device's agent is too old for this server, which refuses it: upgrade fleet-agent on the device. It keeps running what it runs")
}

// LabelsNotGranted tells that a device asks for labels that are not its to set. The text
// of this event and the next does not depend on the device, so that however often it
// tries, it is one event.
func LabelsNotGranted() Event {
	return normal("LabelsNotGranted", "the device asks for labels that its token does not let it set: they are shown under %s and are not its groups", v1alpha1.ReportedLabelPrefix)
}

// ArchitectureChanged tells that a device claims another architecture than before.
func ArchitectureChanged() Event {
	return warning("ArchitectureChanged", "the device reports another architecture than its label %s says, which stays: "+
		"if the change is yours, remove the label, and the device gets the one that it reports", v1alpha1.LabelArch)
}

// LabelsDropped tells which labels of a device cannot be set, and why.
func LabelsDropped(why []string) Event {
	return warning("LabelsDropped", "labels that the device asked for were dropped: %s", strings.Join(why, "; "))
}

// CloneSuspected tells, with the message of that condition, that a device may have been
// copied. renewing says that its certificates are renewed meanwhile.
func CloneSuspected(device, message string, renewing bool) Event {
	decide := "Certificates of the device are not renewed until you decide"
	if renewing {
		decide = "Decide"
	}
	return warning(v1alpha1.DeviceCloneSuspected, "%s. %s with `fleet-server device accept %s --session SESSION` or `fleet-server device revoke %s`", message, decide, device, device)
}

// SessionUnknown tells that an operator accepted a session that there is not.
func SessionUnknown(session string) Event {
	return warning("NotAccepted", "no session %s claims to be the device: see status.claimants", session)
}

// SessionRefused tells that an operator accepted a session whose key cannot come back.
func SessionRefused(device, session string) Event {
	return warning("NotAccepted", "the key of session %s was replaced and is refused for good: if that machine is the device, give it a new key with the token of "+
		"`fleet-server device replace %s`", session, device)
}

func isTrue(conditions []metav1.Condition, typ string) bool {
	return meta.IsStatusConditionTrue(conditions, typ)
}
