package events

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// maxExample bounds what an event says of one device's error: an event has room for
// 1,024 bytes.
const maxExample = 300

// OfRollout returns what happened to the rollout of a Deployment by what its status was
// and becomes. It is pure. told is the number of failed devices that was told last, 0 when
// none was since failures ended; tells is what it is from now on. A rollout that fails on
// more devices is told again when they are twice as many: the status has each number.
func OfRollout(before, now *v1alpha1.DeploymentStatus, told int) (events []Event, tells int) {
	failed, same := Failing(now), before.ObservedGeneration == now.ObservedGeneration
	if !same {
		told = 0 // of another score, it may be
	}
	switch {
	case failed > 0 && failed >= 2*told:
		return []Event{rolloutFailed(now.Aggregate)}, failed
	case failed > 0:
		return nil, told
	case told > 0 && !reasonIs(now, v1alpha1.ReasonHeld):
		return []Event{recovered(now.Aggregate)}, 0
	case isRolledOut(now) && (!isRolledOut(before) || !same):
		return []Event{normal("RolledOut", "all %d devices run the current score", now.Aggregate.MatchedDeviceCount)}, 0
	}
	return nil, 0
}

// Failing is on how many devices a rollout fails.
func Failing(s *v1alpha1.DeploymentStatus) int {
	if s.Aggregate == nil || !reasonIs(s, v1alpha1.ReasonDevicesFailed) {
		return 0
	}
	return s.Aggregate.Failed
}

// isRolledOut reports whether there are devices, and all of them run the score.
func isRolledOut(s *v1alpha1.DeploymentStatus) bool {
	return isTrue(s.Conditions, v1alpha1.DeploymentAvailable) && s.Aggregate != nil && s.Aggregate.MatchedDeviceCount > 0
}

// reasonIs reports whether condition Available has a reason.
func reasonIs(s *v1alpha1.DeploymentStatus, reason string) bool {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.DeploymentAvailable)
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

func recovered(a *v1alpha1.Aggregate) Event {
	return normal("Recovered", "no device fails any more: %d of %d devices run the current score", a.Succeeded, a.MatchedDeviceCount)
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
