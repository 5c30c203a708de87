package apiserver

import (
	"context"
	"fmt"
	"io"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/kubernetes"
)

// Review is a second look at one part of the objects of a kind, where a definition
// cannot say what is allowed. It is asked when that part is new or differs from what is
// stored. So what was stored before can be changed elsewhere, as it must be before it
// can be deleted.
type Review struct {
	// Resource is what a definition serves, or a kind that is built in.
	Resource schema.GroupResource
	// Path leads to the part, an object, from the root.
	Path []string
	// Of judges a part.
	Of func(Subject) (Opinion, error)
}

// Subject is what a Review judges.
type Subject struct {
	// Name is that of the object.
	Name string
	// Part is the part as it would be stored, Old as it is stored, nil if it is not.
	Part, Old map[string]any
	// NamespaceLabels reads those that the object's namespace has now.
	NamespaceLabels func() (map[string]string, error)
}

// Opinion is what a Review says.
type Opinion struct {
	// Objections refuse the write.
	Objections []Objection
	// Warnings are shown to whom writes.
	Warnings []string
}

// Objection is one mistake.
type Objection struct {
	// Field is its path from the root of the object: "spec.score.data.services[0].image".
	Field string
	// Message says what is wrong and what is allowed.
	Message string
}

const reviewName = "Review"

// reviewer asks the reviews.
type reviewer struct {
	*admission.Handler

	reviews []Review
	client  kubernetes.Interface
}

// Validate implements admission.ValidationInterface.
func (r reviewer) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" {
		return nil
	}
	var objections []Objection
	for _, review := range r.reviews {
		if a.GetResource().GroupResource() != review.Resource {
			continue
		}
		more, err := r.ask(ctx, review, a)
		if err != nil {
			return err
		}
		objections = append(objections, more...)
	}
	return refusal(a, objections)
}

func (r reviewer) ask(ctx context.Context, review Review, a admission.Attributes) ([]Objection, error) {
	present, err := partOf(a.GetObject(), review.Path)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	old, err := partOf(a.GetOldObject(), review.Path)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if present == nil || apiequality.Semantic.DeepEqual(present, old) {
		return nil, nil
	}
	opinion, err := review.Of(Subject{Name: nameOf(a), Part: present, Old: old, NamespaceLabels: func() (map[string]string, error) {
		// Not from an informer: it may lag behind a label that was set just now.
		ns, err := r.client.CoreV1().Namespaces().Get(ctx, a.GetNamespace(), metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("reading the labels of namespace %s: %w", a.GetNamespace(), err)
		}
		return ns.Labels, nil
	}})
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	for _, text := range opinion.Warnings {
		warning.AddWarning(ctx, "", text)
	}
	return opinion.Objections, nil
}

// shownObjections is how many objections the message of a refusal names. Its causes have
// all of them, and those are what kubectl shows.
const shownObjections = 10

// refusal is an error as Kubernetes has for invalid objects, but in the words of the
// objections alone.
func refusal(a admission.Attributes, objections []Objection) error {
	if len(objections) == 0 {
		return nil
	}
	err := apierrors.NewInvalid(a.GetKind().GroupKind(), a.GetName(), nil)
	var shown []string
	for _, o := range objections {
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Field: o.Field, Message: o.Message})
		if len(shown) < shownObjections {
			shown = append(shown, o.Field+": "+o.Message)
		}
	}
	if more := len(objections) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	err.ErrStatus.Message = fmt.Sprintf("%s %q is invalid: %s", a.GetKind().GroupKind(), a.GetName(), strings.Join(shown, "; "))
	return err
}

// partOf returns the object at a path, or nil.
func partOf(obj runtime.Object, path []string) (object map[string]any, err error) {
	var whole map[string]any
	switch o := obj.(type) {
	case nil:
	case *unstructured.Unstructured:
		whole = o.Object
	default: // of a kind that is built in
		if whole, err = runtime.DefaultUnstructuredConverter.ToUnstructured(obj); err != nil {
			return nil, fmt.Errorf("reading an object for its review: %w", err)
		}
	}
	part, _, _ := unstructured.NestedFieldNoCopy(whole, path...)
	object, _ = part.(map[string]any)
	return object, nil
}

func reviewFactory(reviews []Review, client kubernetes.Interface) admission.Factory {
	return func(io.Reader) (admission.Interface, error) {
		return reviewer{admission.NewHandler(admission.Create, admission.Update), reviews, client}, nil
	}
}
