// Package acceptance decides whether a Deployment may be sent to devices. It
// is pure: the deployment controller shows the verdict as a condition, and the
// assigner acts on it, without waiting for each other. Package verdicts has it
// evaluated once for both.
package acceptance

import (
	"errors"
	"fmt"
	"slices"

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
	// Secrets are the names of the Secrets that the score needs, and then the
	// wire.ConfigMapNames of ConfigMaps.
	Secrets []string
	// Needs is what an agent must be able to do.
	Needs []wire.Capability
	// Template is nil for a score that is the same on each device. Otherwise Entry and Body
	// are of the template.
	Template *Template
}

// Digests is where digests of Secrets and ConfigMaps come from; secrets.Resolver is one.
type Digests interface {
	// Digest fails for one that cannot be delivered.
	Digest(namespace string, names []string) (string, error)
}

// Rules are what the operator of the server decided about scores.
type Rules struct {
	// Types are score types that are unknown here and are sent as they are.
	Types []string
}

// Evaluate checks a Deployment. namespaceLabels are those of its namespace.
func (r Rules) Evaluate(d *v1alpha1.Deployment, namespaceLabels map[string]string, digests Digests) Verdict {
	ref := wire.DeploymentRef{Namespace: d.Namespace, Name: d.Name}
	selector, err := metav1.LabelSelectorAsSelector(&d.Spec.TargetSelector)
	if err != nil {
		return Verdict{Reason: v1alpha1.ReasonInvalidSelector, Message: "spec.targetSelector: " + err.Error(), Selector: labels.Nothing()}
	}
	v := Verdict{Selector: selector, Needs: []wire.Capability{wire.CanRun(d.Spec.Score.Type)}}
	if err := ref.Validate(); err != nil {
		v.Reason, v.Message = v1alpha1.ReasonInvalid, err.Error()
		return v
	}
	document, err := score.Parse(d.Spec.Score.Type, d.Spec.Score.Data.Raw)
	if err == nil {
		v.Body, err = document.Canonical()
	}
	if err != nil {
		v.Reason, v.Message = v1alpha1.ReasonInvalid, "spec.score."+err.Error()
		return v
	}
	needs, digest, reason, err := r.judge(d.Spec.Score.Type, document, d.Namespace, namespaceLabels, digests)
	v.Reason, v.Secrets = reason, objectsOf(&needs)
	switch {
	case err != nil:
		v.Message = err.Error()
	case reason == v1alpha1.ReasonUnknownType:
		v.Accepted, v.Message = true, AboutUnreadType(d.Spec.Score.Type)
	default:
		v.Accepted, v.Message = true, "the score is valid"
		v.Template = templateOf(document, d.Namespace, namespaceLabels, v.Secrets)
	}
	v.Entry = wire.Entry{
		DeploymentRef: ref, Type: d.Spec.Score.Type, Hash: score.Hash(v.Body), Size: len(v.Body), SecretsDigest: digest,
		VolumeRetention: wire.VolumeRetention(d.Spec.VolumeRetention),
	}
	return v
}

// judge returns what the score needs, the digest of its Secrets, and why it is
// accepted, or with an error, why not.
func (r Rules) judge(typ string, document *score.Document, namespace string, namespaceLabels map[string]string, digests Digests) (needs score.Needs, digest, reason string, err error) {
	needs, invalid := document.Validate()
	if errors.Is(invalid, score.ErrUnknownType) {
		reason, err = r.judgeUnknown(typ, namespace, namespaceLabels)
		return needs, "", reason, err
	}
	if err := refuse(invalid, needs, namespace, namespaceLabels); err != nil {
		reason = v1alpha1.ReasonPrivilegeExceeded
		if invalid != nil {
			reason = v1alpha1.ReasonInvalid
		}
		return needs, "", reason, err
	}
	if digest, err = digests.Digest(namespace, objectsOf(&needs)); err == nil {
		return needs, digest, v1alpha1.ReasonValid, nil
	}
	kind, reason := "ConfigMap", v1alpha1.ReasonConfigMapUnavailable
	if _, secrets := digests.Digest(namespace, needs.Secrets); secrets != nil {
		kind, reason, err = "Secret", v1alpha1.ReasonSecretUnavailable, secrets
	}
	return needs, "", reason, fmt.Errorf("the score needs a %s in namespace %s that cannot be delivered: %w", kind, namespace, err)
}

// objectsOf are the names of what a score needs: Secrets, and then ConfigMaps.
func objectsOf(needs *score.Needs) []string {
	names := slices.Clone(needs.Secrets)
	for _, name := range needs.ConfigMaps {
		names = append(names, wire.ConfigMapName(name))
	}
	return names
}

// refuse says what is wrong with a score, and what it needs that its namespace does not allow,
// so that its author sees both at once; nil for nothing.
func refuse(invalid error, needs score.Needs, namespace string, namespaceLabels map[string]string) error {
	beyond := exceeds(needs, namespace, namespaceLabels)
	switch {
	case invalid == nil:
		return beyond
	case beyond == nil:
		return fmt.Errorf("spec.score.%w", invalid)
	}
	return fmt.Errorf("spec.score.%w; %w", invalid, beyond)
}

// exceeds says why a namespace does not allow what a score needs.
func exceeds(needs score.Needs, namespace string, namespaceLabels map[string]string) error {
	allowed := allowedBy(namespaceLabels)
	if needs.Privilege <= allowed {
		return nil
	}
	return fmt.Errorf("spec.score.%s, but namespace %s allows %s: see the namespace's label %s%s",
		needs.Demands.Beyond(allowed), namespace, allowed, v1alpha1.LabelPrivilege, aboutLabel(namespaceLabels))
}

// aboutLabel says what is wrong with the label of a namespace, after other words; empty for
// nothing.
func aboutLabel(namespaceLabels map[string]string) string {
	if _, err := score.ParsePrivilege(namespaceLabels[v1alpha1.LabelPrivilege]); err != nil {
		return ", which has an " + err.Error()
	}
	return ""
}

// allowedBy is the privilege that a namespace with these labels allows. A value that nobody can
// read must not open anything.
func allowedBy(namespaceLabels map[string]string) score.Privilege {
	allowed, err := score.ParsePrivilege(namespaceLabels[v1alpha1.LabelPrivilege])
	if err != nil {
		return score.Restricted
	}
	return allowed
}

// judgeUnknown is judge for a type that is unknown here. What it asks for nobody here can read,
// so it may be anything.
func (r Rules) judgeUnknown(typ, namespace string, namespaceLabels map[string]string) (reason string, err error) {
	switch allowed := allowedBy(namespaceLabels); {
	case !slices.Contains(r.Types, typ):
		return v1alpha1.ReasonUnknownType, fmt.Errorf("spec.score.type: %s", aboutUnknownType(typ))
	case allowed < score.Privileged:
		return v1alpha1.ReasonPrivilegeExceeded, fmt.Errorf("spec.score.type: %s, but namespace %s allows %s: see the namespace's label %s",
			needsMost(typ), namespace, allowed, v1alpha1.LabelPrivilege)
	}
	return v1alpha1.ReasonUnknownType, nil
}

// AboutUnreadType says what becomes of a score of a type that Rules has.
func AboutUnreadType(typ string) string {
	return fmt.Sprintf("this server does not know score type %s and sends it unread, as scoreTypes of its config.yaml says", typ)
}

func aboutUnknownType(typ string) string {
	return fmt.Sprintf("%s is no type that this server knows: use %s; for a type of an interpreter on devices, list it in scoreTypes of the server's config.yaml", typ, score.TypeNames())
}

func needsMost(typ string) string {
	return fmt.Sprintf("%s, which this server cannot read, needs privilege %s", typ, score.Privileged)
}
