package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"

	"fleet.nationtech.io/fleet/pkg/score"
)

const scoreSizeName = "ScoreSize"

// scoreSize refuses Deployments whose score is too long to be sent to a device:
// no schema can bound data that it does not know.
type scoreSize struct{ *admission.Handler }

// Validate implements admission.ValidationInterface.
func (scoreSize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" || a.GetResource().GroupResource().String() != "deployments.fleet.nationtech.io" {
		return nil
	}
	present, old := scoreOf(a.GetObject()), scoreOf(a.GetOldObject())
	// What is stored already can still be changed elsewhere, as it must be before
	// it can be deleted.
	if present == nil || apiequality.Semantic.DeepEqual(present, old) {
		return nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(present); err != nil {
		return err
	}
	if size := b.Len() - 1; size > score.MaxSize { // without the line's end
		detail := fmt.Sprintf("it has %d bytes, at most %d are allowed", size, score.MaxSize)
		return apierrors.NewInvalid(a.GetKind().GroupKind(), a.GetName(), field.ErrorList{field.Forbidden(field.NewPath("spec", "score"), detail)})
	}
	return nil
}

func scoreOf(obj runtime.Object) map[string]any {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	s, _, _ := unstructured.NestedMap(u.Object, "spec", "score") // nil when it has none
	return s
}

func newScoreSize(io.Reader) (admission.Interface, error) {
	return scoreSize{admission.NewHandler(admission.Create, admission.Update)}, nil
}
