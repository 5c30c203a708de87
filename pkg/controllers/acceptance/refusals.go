package acceptance

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score"
)

// Refusal is one reason to take no such score.
type Refusal struct {
	// Field is its path in the Deployment.
	Field string
	// Message says what is wrong and what is allowed.
	Message string
}

// maxRefusals bounds what a hostile score makes of the memory and of the answer.
const maxRefusals = 1000

// Refusals are the reasons to take no such score, all at once: those for which Evaluate
// would not accept it, but for what can still come, such as a Secret. namespaceLabels are those
// of the namespace, asked for where the answer depends on them; its error is returned.
func (r Rules) Refusals(s v1alpha1.Score, namespaceLabels func() (map[string]string, error)) ([]Refusal, error) {
	document, err := score.Parse(s.Type, s.Data.Raw)
	if err == nil {
		_, err = document.Canonical() // which has a bound
	}
	if err != nil {
		return refusalsOf(err), nil
	}
	needs, err := document.Validate()
	if errors.Is(err, score.ErrUnknownType) {
		return r.refusalsOfUnknown(s.Type, namespaceLabels)
	}
	refusals := refusalsOf(err)
	if needs.Privilege == score.Restricted { // which every namespace allows
		return refusals, nil
	}
	labels, err := namespaceLabels()
	if err != nil {
		return nil, err
	}
	allowed := allowedBy(labels)
	for _, d := range needs.Demands {
		if d.Privilege > allowed && len(refusals) < maxRefusals {
			refusals = append(refusals, Refusal{"spec.score.data." + d.Field, fmt.Sprintf(
				"needs privilege %s, but the namespace allows %s: %s%s", d.Privilege, allowed, howToAllow(labels, d.Privilege), aboutLabel(labels))})
		}
	}
	return refusals, nil
}

// howToAllow says what gives a namespace with these labels a privilege.
func howToAllow(labels map[string]string, p score.Privilege) string {
	overwrite := ""
	if labels[v1alpha1.LabelPrivilege] != "" {
		overwrite = "--overwrite "
	}
	return fmt.Sprintf("to allow it, kubectl label %snamespace %s %s=%s", overwrite, cmp.Or(labels[corev1.LabelMetadataName], "NAMESPACE"), v1alpha1.LabelPrivilege, p)
}

// refusalsOfUnknown are those of a type that is unknown here.
func (r Rules) refusalsOfUnknown(typ string, namespaceLabels func() (map[string]string, error)) ([]Refusal, error) {
	if !slices.Contains(r.Types, typ) {
		return []Refusal{{"spec.score.type", aboutUnknownType(typ)}}, nil
	}
	labels, err := namespaceLabels()
	if err != nil {
		return nil, err
	}
	if allowed := allowedBy(labels); allowed < score.Privileged {
		return []Refusal{{"spec.score.type", fmt.Sprintf("%s, but the namespace allows %s: %s%s", needsMost(typ), allowed, howToAllow(labels, score.Privileged), aboutLabel(labels))}}, nil
	}
	return nil, nil
}

// refusalsOf takes apart the errors of package score; none for nil.
func refusalsOf(err error) []Refusal {
	if err == nil {
		return nil
	}
	all, _ := errors.AsType[score.FieldErrors](err)
	if one, ok := errors.AsType[*score.FieldError](err); ok && all == nil {
		all = score.FieldErrors{one}
	}
	if all == nil { // it is about the score as a whole
		return []Refusal{{"spec.score", err.Error()}}
	}
	refusals := make([]Refusal, len(all))
	for i, e := range all {
		field := "spec.score.data"
		if e.Field != "" {
			field += "." + e.Field
		}
		refusals[i] = Refusal{field, e.Message}
	}
	return refusals
}
