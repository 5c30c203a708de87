package device

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// maxLacks is how many Deployments condition AgentOutdated names.
const maxLacks = 8

func capabilityNames(can []wire.Capability) (names []string) {
	for _, c := range can {
		names = append(names, string(c))
	}
	return names
}

// setOutdated shows what the device's agent lacks for its Deployments.
func setOutdated(status *v1alpha1.DeviceStatus, generation int64, lacks []assignment.Lack) {
	condition := metav1.Condition{
		Type: v1alpha1.DeviceAgentOutdated, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonCapable, ObservedGeneration: generation,
		Message: "the agent can do what every Deployment needs",
	}
	switch {
	case len(lacks) > 0:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionTrue, v1alpha1.ReasonCapabilityMissing, outdatedMessage(lacks)
	case meta.FindStatusCondition(status.Conditions, condition.Type) == nil:
		return
	}
	meta.SetStatusCondition(&status.Conditions, condition)
}

func outdatedMessage(lacks []assignment.Lack) string {
	var b strings.Builder
	for i, l := range lacks[:min(len(lacks), maxLacks)] {
		b.WriteString([]string{"", "; "}[min(i, 1)])
		fmt.Fprintf(&b, "Deployment %s needs %s", l.DeploymentRef, strings.Join(capabilityNames(l.Missing), ", "))
	}
	if more := len(lacks) - maxLacks; more > 0 {
		fmt.Fprintf(&b, "; and %d more", more)
	}
	b.WriteString(": upgrade fleet-agent on the device")
	if slices.ContainsFunc(lacks, func(l assignment.Lack) bool { return slices.Contains(l.Missing, wire.CanFilesV0) }) {
		b.WriteString(", and for FilesV0 list fileRoots in its agent.yaml")
	}
	return b.String()
}
