package assigner

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
)

// longestReason bounds what is said of one failure or refusal, which is in two conditions.
const longestReason = 512

// readiness returns the conditions by which tools that know nothing of fleet follow
// a rollout (kstatus): Ready, and Reconciling or Stalled while it is not. A device
// that is offline is waited for, until its report on the current score arrives.
func readiness(c assignment.Counts, accepted bool) []metav1.Condition {
	running := fmt.Sprintf("%d of %d devices run the current score", c.Succeeded, c.Matched) + outdated(c.Outdated) + offline(c.Offline)
	switch phaseOf(c, accepted) {
	case Refused:
		return notReady(v1alpha1.DeploymentStalled, v1alpha1.ReasonHeld, fmt.Sprintf("the score is not accepted, so devices keep what they run: %.*s", longestReason, c.Refusal.Message))
	case Accepted:
		return ready(v1alpha1.ReasonNoDevicesMatched, "the target selector matches no device")
	case Failed:
		return notReady(v1alpha1.DeploymentStalled, v1alpha1.ReasonDevicesFailed, fmt.Sprintf("%s, %d failed%s", running, c.Failed, newest(c)))
	case RollingOut:
		return notReady(v1alpha1.DeploymentReconciling, v1alpha1.ReasonRolling, running)
	}
	return ready(v1alpha1.ReasonComplete, running)
}

// offline tells of devices that are waited for, as a part of a message.
func offline(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d offline", n)
}

// newest is the newest failure, as a part of a message.
func newest(c assignment.Counts) string {
	if c.Newest == nil {
		return ""
	}
	return fmt.Sprintf("; on %s: %.*s", c.Newest.Device, longestReason, c.Newest.Error)
}

func ready(reason, message string) []metav1.Condition {
	return []metav1.Condition{{Type: v1alpha1.DeploymentReady, Status: metav1.ConditionTrue, Reason: reason, Message: message}}
}

func notReady(problem, reason, message string) []metav1.Condition {
	return []metav1.Condition{
		{Type: v1alpha1.DeploymentReady, Status: metav1.ConditionFalse, Reason: reason, Message: message},
		{Type: problem, Status: metav1.ConditionTrue, Reason: reason, Message: message},
	}
}

// sameProblem reports whether neither of two lists has a problem that the other
// lacks: conditions of problems are absent when there is none.
func sameProblem(now, then []metav1.Condition) bool {
	for _, typ := range []string{v1alpha1.DeploymentReconciling, v1alpha1.DeploymentStalled} {
		if (meta.FindStatusCondition(now, typ) == nil) != (meta.FindStatusCondition(then, typ) == nil) {
			return false
		}
	}
	return true
}
