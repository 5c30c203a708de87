// Package acceptance decides whether a Deployment may be sent to devices. It
// is pure: the deployment controller shows the verdict as a condition, and the
// fleet controller acts on it, without waiting for each other.
package acceptance

import (
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Verdict is what Evaluate decides.
type Verdict struct {
	// Accepted: Entry and Body may be sent.
	Accepted bool
	// Reason and Message are those of condition Accepted.
	Reason, Message string
	// Selector matches nothing when the target selector cannot be read.
	Selector labels.Selector
	Entry    wire.Entry
	Body     []byte
}

// Evaluate checks a Deployment. namespaceLabels are those of its namespace.
func Evaluate(d *v1alpha1.Deployment, namespaceLabels map[string]string) Verdict {
	ref := wire.DeploymentRef{Namespace: d.Namespace, Name: d.Name}
	selector, err := metav1.LabelSelectorAsSelector(&d.Spec.TargetSelector)
	if err != nil {
		return Verdict{Reason: v1alpha1.ReasonSelector, Message: "spec.targetSelector: " + err.Error(), Selector: labels.Nothing()}
	}
	v := Verdict{Selector: selector}
	if err := ref.Validate(); err != nil {
		v.Reason, v.Message = v1alpha1.ReasonInvalid, err.Error()
		return v
	}
	if v.Body, err = score.Canonical(d.Spec.Score.Type, d.Spec.Score.Data.Raw); err != nil {
		v.Reason, v.Message = v1alpha1.ReasonInvalid, "spec.score."+err.Error()
		return v
	}
	v.Reason, v.Message, v.Accepted = judge(&d.Spec.Score, namespaceLabels)
	v.Entry = wire.Entry{
		DeploymentRef: ref, Type: d.Spec.Score.Type, Hash: score.Hash(v.Body), Size: len(v.Body),
		VolumeRetention: wire.VolumeRetention(d.Spec.VolumeRetention),
	}
	return v
}

func judge(s *v1alpha1.Score, namespaceLabels map[string]string) (reason, message string, accepted bool) {
	needed, err := score.Validate(s.Type, s.Data.Raw)
	switch {
	case errors.Is(err, score.ErrUnknownType):
		return v1alpha1.ReasonUnvalidated, fmt.Sprintf("this server does not know score type %s and sends it as it is", s.Type), true
	case err != nil:
		return v1alpha1.ReasonInvalid, "spec.score." + err.Error(), false
	}
	// A value that nobody can read must not open anything.
	allowed, err := score.ParsePrivilege(namespaceLabels[v1alpha1.LabelPrivilege])
	if err != nil {
		allowed = score.Restricted
	}
	if needed > allowed {
		return v1alpha1.ReasonPrivilege, fmt.Sprintf("the score needs privilege %s, but its namespace allows %s: see the namespace's label %s",
			needed, allowed, v1alpha1.LabelPrivilege), false
	}
	return v1alpha1.ReasonValid, "the score is valid", true
}
