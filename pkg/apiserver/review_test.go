package apiserver_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/kubernetes/fake"

	"fleet.nationtech.io/fleet/pkg/apiserver"
)

var machines = schema.GroupResource{Group: "example.com", Resource: "machines"}

// sizes objects to parts that are large, and warns of those that are small.
var sizes = apiserver.Review{
	Resource: machines, Path: []string{"spec", "body"},
	Of: func(s apiserver.Subject) (o apiserver.Opinion, err error) {
		switch s.Part["size"] {
		case "broken":
			return o, errors.New("cannot judge")
		case "small":
			o.Warnings = []string{"it is small"}
		case "large":
			for i := range 12 {
				o.Objections = append(o.Objections, apiserver.Objection{Field: fmt.Sprintf("spec.body.sides[%d]", i), Message: "is large"})
			}
		case s.Name: // of the object
			o.Objections = []apiserver.Objection{{Field: "spec.body.size", Message: "is its name"}}
		case "odd":
			l, err := s.NamespaceLabels()
			if err == nil && l["odd"] != "allowed" {
				o.Objections = []apiserver.Objection{{Field: "spec.body.size", Message: "is odd"}}
			}
			return o, err
		}
		return o, nil
	},
}

func machine(size string) runtime.Object {
	return &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"body": map[string]any{"size": size}}}}
}

type warnings struct{ texts []string }

func (w *warnings) AddWarning(_, text string) { w.texts = append(w.texts, text) }

func TestSecondLooks(t *testing.T) {
	t.Parallel()
	namespace := func(name, odd string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"odd": odd}}}
	}
	plugin := apiserver.Reviewer([]apiserver.Review{sizes}, fake.NewClientset(namespace("strict", "refused"), namespace("lax", "allowed")))
	for name, tc := range map[string]struct {
		object, old runtime.Object
		subresource string
		resource    string
		namespace   string
		code        int32
		warnings    []string
	}{
		"says its name":        {object: machine("m1"), code: 422},
		"fits":                 {object: machine("medium")},
		"objected to":          {object: machine("large"), code: 422},
		"becomes worse":        {object: machine("large"), old: machine("medium"), code: 422},
		"was so before":        {object: machine("large"), old: machine("large")},
		"its status":           {object: machine("large"), old: machine("medium"), subresource: "status"},
		"another kind":         {object: machine("large"), resource: "robots"},
		"no such part":         {object: &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"body": "text"}}}},
		"warned of":            {object: machine("small"), warnings: []string{"it is small"}},
		"cannot be judged":     {object: machine("broken"), code: 500},
		"namespace refuses":    {object: machine("odd"), namespace: "strict", code: 422},
		"namespace allows":     {object: machine("odd"), namespace: "lax"},
		"namespace is unknown": {object: machine("odd"), namespace: "other", code: 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			operation := admission.Create
			if tc.old != nil {
				operation = admission.Update
			}
			resource := machines.WithVersion("v1")
			if tc.resource != "" {
				resource.Resource = tc.resource
			}
			a := admission.NewAttributesRecord(tc.object, tc.old, schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Machine"}, tc.namespace, "m1",
				resource, tc.subresource, operation, nil, true, nil)
			var heard warnings
			err := plugin.Validate(warning.WithWarningRecorder(t.Context(), &heard), a, nil)
			status, _ := errors.AsType[*apierrors.StatusError](err)
			if tc.code == 0 && err != nil || tc.code != 0 && (status == nil || status.ErrStatus.Code != tc.code) {
				t.Errorf("error is %v, want code %d", err, tc.code)
			}
			if !slices.Equal(heard.texts, tc.warnings) {
				t.Errorf("warnings are %q", heard.texts)
			}
		})
	}
}

// Kinds that are built in are reviewed as those of definitions are.
func TestSecondLooksAtBuiltInKinds(t *testing.T) {
	t.Parallel()
	odd := apiserver.Review{Resource: corev1.Resource("namespaces"), Path: []string{"metadata", "labels"}, Of: func(s apiserver.Subject) (o apiserver.Opinion, err error) {
		if s.Part["odd"] != s.Old["odd"] {
			o.Objections = []apiserver.Objection{{Field: "metadata.labels[odd]", Message: "is odd"}}
		}
		return o, nil
	}}
	plugin := apiserver.Reviewer([]apiserver.Review{odd}, fake.NewClientset())
	namespace := func(labels map[string]string) runtime.Object {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "plant", Labels: labels}}
	}
	for name, tc := range map[string]struct {
		object, old runtime.Object
		refused     bool
	}{
		"new":           {object: namespace(map[string]string{"odd": "yes"}), refused: true},
		"changed":       {object: namespace(map[string]string{"odd": "yes"}), old: namespace(nil), refused: true},
		"as before":     {object: namespace(map[string]string{"odd": "yes", "a": "b"}), old: namespace(map[string]string{"odd": "yes"})},
		"without label": {object: namespace(nil)},
	} {
		operation := admission.Create
		if tc.old != nil {
			operation = admission.Update
		}
		a := admission.NewAttributesRecord(tc.object, tc.old, corev1.SchemeGroupVersion.WithKind("Namespace"), "", "plant", corev1.SchemeGroupVersion.WithResource("namespaces"), "", operation, nil, false, nil)
		if err := plugin.Validate(t.Context(), a, nil); apierrors.IsInvalid(err) != tc.refused || !tc.refused && err != nil {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// What several reviews of one object object to is refused at once.
func TestRefusalsNameTheObjectionsOfEveryReview(t *testing.T) {
	t.Parallel()
	weights := apiserver.Review{Resource: machines, Path: []string{"spec", "weight"}, Of: func(apiserver.Subject) (o apiserver.Opinion, err error) {
		o.Objections = []apiserver.Objection{{Field: "spec.weight.unit", Message: "is unknown"}}
		return o, nil
	}}
	plugin := apiserver.Reviewer([]apiserver.Review{sizes, weights}, fake.NewClientset())
	object := machine("m1").(*unstructured.Unstructured)
	object.Object["spec"].(map[string]any)["weight"] = map[string]any{"unit": "stone"}
	a := admission.NewAttributesRecord(object, nil, schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Machine"}, "ns", "m1",
		machines.WithVersion("v1"), "", admission.Create, nil, false, nil)
	const want = `Machine.example.com "m1" is invalid: spec.body.size: is its name; spec.weight.unit: is unknown`
	if err := plugin.Validate(t.Context(), a, nil); err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
}

// All objections are causes, and the message is one line of a length that can be read.
func TestRefusalsNameEveryObjection(t *testing.T) {
	t.Parallel()
	plugin := apiserver.Reviewer([]apiserver.Review{sizes}, fake.NewClientset())
	a := admission.NewAttributesRecord(machine("large"), nil, schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Machine"}, "ns", "m1",
		machines.WithVersion("v1"), "", admission.Create, nil, false, nil)
	err := plugin.Validate(t.Context(), a, nil)
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		t.Fatalf("error is %v", err)
	}
	causes := status.ErrStatus.Details.Causes
	if len(causes) != 12 || causes[11] != (metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Field: "spec.body.sides[11]", Message: "is large"}) {
		t.Errorf("causes are %+v", causes)
	}
	want := `Machine.example.com "m1" is invalid: spec.body.sides[0]: is large; spec.body.sides[1]: is large; spec.body.sides[2]: is large; spec.body.sides[3]: is large; ` +
		`spec.body.sides[4]: is large; spec.body.sides[5]: is large; spec.body.sides[6]: is large; spec.body.sides[7]: is large; spec.body.sides[8]: is large; spec.body.sides[9]: is large; and 2 more`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}
