package events

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// maxExample bounds what an event says of one device's error: an event has room for
// 1,024 bytes.
const maxExample = 300

// OfRollout returns what happened to the rollout of a Deployment by what its status was
// and becomes. It is pure. A rollout that fails on more devices is told once: the
// status has the number.
func OfRollout(before, now *v1alpha1.DeploymentStatus) (events []Event) {
	failed := reasonIs(now.Conditions, v1alpha1.ReasonDevicesFailed)
	failedBefore := reasonIs(before.Conditions, v1alpha1.ReasonDevicesFailed)
	done, doneBefore := isRolledOut(now), isRolledOut(before)
	switch {
	case failed && !failedBefore:
		events = append(events, rolloutFailed(now.Aggregate))
	case done && failedBefore:
		events = append(events, normal("Recovered", "all %d devices run the current score: none fails any more", now.Aggregate.MatchedDeviceCount))
	case done && (!doneBefore || before.ObservedGeneration != now.ObservedGeneration):
		events = append(events, normal("RolledOut", "all %d devices run the current score", now.Aggregate.MatchedDeviceCount))
	}
	return events
}

// isRolledOut reports whether there are devices, and all of them run the score.
func isRolledOut(s *v1alpha1.DeploymentStatus) bool {
	return isTrue(s.Conditions, v1alpha1.DeploymentAvailable) && s.Aggregate != nil && s.Aggregate.MatchedDeviceCount > 0
}

func reasonIs(conditions []metav1.Condition, reason string) bool {
	c := meta.FindStatusCondition(conditions, v1alpha1.DeploymentAvailable)
	return c != nil && c.Reason == reason
}

func rolloutFailed(a *v1alpha1.Aggregate) Event {
	what := "1 device"
	if a.Failed != 1 {
		what = fmt.Sprintf("%d devices", a.Failed)
	}
	if a.LastError == nil {
		return warning("DevicesFailed", "the score fails on %s of %d", what, a.MatchedDeviceCount)
	}
	return warning("DevicesFailed", "the score fails on %s of %d, such as %s: %s", what, a.MatchedDeviceCount, a.LastError.Device, bounded(a.LastError.Message))
}

// bounded cuts a text at a rune.
func bounded(s string) string {
	if len(s) <= maxExample {
		return s
	}
	cut := maxExample
	for cut > 0 && s[cut]&0xC0 == 0x80 { // within a rune of UTF-8
		cut--
	}
	return s[:cut] + "…"
}

// OfVerdict returns what is told about a verdict, with the reason and message of
// condition Accepted.
func OfVerdict(accepted bool, reason, message string) Event {
	if !accepted {
		return warning(reason, "%s", message)
	}
	return normal("Accepted", "%s", message)
}
