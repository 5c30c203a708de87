package device

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
)

const (
	// maxProblems is how many Deployments condition ScoresRendered names, maxProblem the bytes
	// of what is said of one.
	maxProblems, maxProblem = 8, 400
)

// setRendered shows which Deployments cannot be rendered for the device, and why. The condition
// is absent until one cannot.
func setRendered(status *v1alpha1.DeviceStatus, generation int64, problems []assignment.Problem) {
	condition := metav1.Condition{
		Type: v1alpha1.DeviceScoresRendered, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonRendered, ObservedGeneration: generation,
		Message: "the device has what every Deployment uses of it",
	}
	switch {
	case len(problems) > 0:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, v1alpha1.ReasonRenderingFailed, problemsMessage(problems)
	case meta.FindStatusCondition(status.Conditions, condition.Type) == nil:
		return
	}
	meta.SetStatusCondition(&status.Conditions, condition)
}

func problemsMessage(problems []assignment.Problem) string {
	var parts []string
	for _, p := range problems[:min(len(problems), maxProblems)] {
		parts = append(parts, fmt.Sprintf("Deployment %s: %s", p.DeploymentRef, strings.ToValidUTF8(p.Text[:min(len(p.Text), maxProblem)], "")))
	}
	if more := len(problems) - maxProblems; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, "; ")
}
