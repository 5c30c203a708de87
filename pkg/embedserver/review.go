package embedserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/score"
)

// scores refuses what no device would be sent, while its author is there to see why.
// The condition Accepted says the same of what is stored already.
func scores(rules acceptance.Rules) apiserver.Review {
	return apiserver.Review{
		Resource: schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "deployments"},
		Path:     []string{"spec", "score"},
		Of: func(s apiserver.Subject) (apiserver.Opinion, error) {
			return reviewScore(rules, s.Part, s.NamespaceLabels)
		},
	}
}

// deviceLabels refuses values of labels that every Device has by its name, while whoever sets
// them is there to see why. Selectors rely on them. The server would set them right again, as
// it does when they are removed; what is wrong in the store already can be changed elsewhere.
func deviceLabels() apiserver.Review {
	return apiserver.Review{
		Resource: schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "devices"},
		Path:     []string{"metadata", "labels"},
		Of:       func(s apiserver.Subject) (apiserver.Opinion, error) { return reviewLabels(s), nil },
	}
}

// selectors refuses a target selector that cannot be read: nobody would know which devices it
// means. One that is stored already can be changed elsewhere.
func selectors() apiserver.Review {
	return apiserver.Review{
		Resource: schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "deployments"},
		Path:     []string{"spec", "targetSelector"},
		Of:       reviewSelector,
	}
}

func reviewSelector(s apiserver.Subject) (o apiserver.Opinion, err error) {
	var selector metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(s.Part, &selector); err != nil {
		return o, err
	}
	for _, e := range validation.ValidateLabelSelector(&selector, validation.LabelSelectorValidationOptions{}, field.NewPath("spec", "targetSelector")) {
		o.Objections = append(o.Objections, apiserver.Objection{Field: e.Field, Message: e.ErrorBody()})
	}
	return o, nil
}

// privileges refuses values of a namespace's label that stand for no privilege, while whoever
// sets them is there to see why: nothing but restricted scores would be taken, and nobody would
// know. A value that is stored already keeps nobody from changing something else.
func privileges() apiserver.Review {
	return apiserver.Review{
		Resource: corev1.Resource("namespaces"),
		Path:     []string{"metadata", "labels"},
		Of:       func(s apiserver.Subject) (apiserver.Opinion, error) { return reviewPrivilege(s), nil },
	}
}

func reviewPrivilege(s apiserver.Subject) (o apiserver.Opinion) {
	value, _ := s.Part[v1alpha1.LabelPrivilege].(string)
	if _, err := score.ParsePrivilege(value); err != nil && s.Old[v1alpha1.LabelPrivilege] != value {
		o.Objections = []apiserver.Objection{{Field: "metadata.labels[" + v1alpha1.LabelPrivilege + "]", Message: err.Error()}}
	}
	return o
}

func reviewLabels(s apiserver.Subject) (o apiserver.Opinion) {
	own := v1alpha1.IdentityLabels(s.Name)
	for _, key := range slices.Sorted(maps.Keys(own)) {
		if value, has := s.Part[key]; has && value != own[key] && value != s.Old[key] {
			o.Objections = append(o.Objections, apiserver.Objection{
				Field: "metadata.labels[" + key + "]", Message: fmt.Sprintf("the server sets this label of the Device, to %s: leave it out", own[key]),
			})
		}
	}
	return o
}

func reviewScore(rules acceptance.Rules, part map[string]any, namespaceLabels func() (map[string]string, error)) (o apiserver.Opinion, err error) {
	typ, _ := part["type"].(string)
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false) // it would make the score longer than it is
	if err := enc.Encode(part["data"]); err != nil {
		return o, err
	}
	refusals, err := rules.Refusals(v1alpha1.Score{Type: typ, Data: runtime.RawExtension{Raw: data.Bytes()}}, namespaceLabels)
	for _, r := range refusals {
		o.Objections = append(o.Objections, apiserver.Objection{Field: r.Field, Message: r.Message})
	}
	if len(o.Objections) == 0 && !score.IsKnown(typ) {
		o.Warnings = []string{"spec.score.type: " + acceptance.AboutUnreadType(typ)}
	}
	return o, err
}
