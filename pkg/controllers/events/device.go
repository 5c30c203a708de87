package events

import (
	"cmp"
	"strings"
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
	events = append(events, renderingOf(before.Conditions, now.Conditions)...)
	if is && was { // what is unknown while it is away is no news when it comes back
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
		{v1alpha1.DeviceScoresAllowed, metav1.ConditionTrue, "ScoresNotAllowed", "ScoresAllowed", "agent.yaml does not allow what a Deployment asks for"},
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

// renewed reports whether a certificate is another one, which lasts longer.
func renewed(before, now *metav1.Time) bool {
	return before != nil && now != nil && now.After(before.Time)
}

func isTrue(conditions []metav1.Condition, typ string) bool {
	return meta.IsStatusConditionTrue(conditions, typ)
}
