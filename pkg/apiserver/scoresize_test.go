package apiserver

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"fleet.nationtech.io/fleet/pkg/score"
)

func TestScoreSize(t *testing.T) {
	t.Parallel()
	group := schema.GroupVersion{Group: "fleet.nationtech.io", Version: "v1alpha1"}
	deployment := func(text string) runtime.Object {
		return &unstructured.Unstructured{Object: map[string]any{
			"spec": map[string]any{"score": map[string]any{"type": "Other", "data": map[string]any{"text": text}}},
		}}
	}
	const frame = len(`{"data":{"text":""},"type":"Other"}`)
	// Canonical scores have '<' as it is.
	longest, tooLong := strings.Repeat("<", score.MaxSize-frame), strings.Repeat("<", score.MaxSize-frame+1)
	for name, tc := range map[string]struct {
		object, old runtime.Object
		subresource string
		refused     bool
	}{
		"longest":           {deployment(longest), nil, "", false},
		"too long":          {deployment(tooLong), nil, "", true},
		"becomes too long":  {deployment(tooLong), deployment(longest), "", true},
		"has been too long": {deployment(tooLong), deployment(tooLong), "", false},
		"status":            {deployment(tooLong), deployment(longest), "status", false},
		"no score":          {&unstructured.Unstructured{Object: map[string]any{}}, nil, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			operation := admission.Create
			if tc.old != nil {
				operation = admission.Update
			}
			a := admission.NewAttributesRecord(tc.object, tc.old, group.WithKind("Deployment"), "default", "a",
				group.WithResource("deployments"), tc.subresource, operation, nil, false, nil)
			err := scoreSize{}.Validate(t.Context(), a, nil)
			if apierrors.IsInvalid(err) != tc.refused || err != nil && !strings.Contains(err.Error(), "spec.score: Forbidden: it has 262145 bytes, at most 262144 are allowed") {
				t.Errorf("got %v", err)
			}
		})
	}
}
