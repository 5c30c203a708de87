package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/request"
)

const guardName = "SystemObjects"

var errNeededDefinition = errors.New("the server needs this definition, and deleting it would delete every object of its kind")

// guard refuses what would take away objects that the server cannot work without.
type guard struct {
	*admission.Handler
	// crds are the protected definitions.
	crds []*apiextensionsv1.CustomResourceDefinition
}

// Validate implements admission.ValidationInterface.
func (g *guard) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" {
		return nil
	}
	of := a.GetResource().GroupResource().String()
	switch deletion := a.GetOperation() == admission.Delete; {
	case deletion && of == "customresourcedefinitions.apiextensions.k8s.io":
		if g.protected(nameOf(a)) != nil || takesAll(ctx, a) {
			return admission.NewForbidden(a, errNeededDefinition)
		}
	case deletion && of == "namespaces":
		if slices.Contains(systemNamespaces, nameOf(a)) {
			return admission.NewForbidden(a, errors.New("this namespace may not be deleted"))
		}
	case !deletion:
		return g.keepServed(a)
	}
	return nil
}

func (g *guard) protected(name string) *apiextensionsv1.CustomResourceDefinition {
	if i := slices.IndexFunc(g.crds, func(crd *apiextensionsv1.CustomResourceDefinition) bool { return crd.Name == name }); i >= 0 {
		return g.crds[i]
	}
	return nil
}

// nameOf is the name of the object. The request for a deletion of a collection has
// none.
func nameOf(a admission.Attributes) string {
	if m, err := meta.Accessor(a.GetOldObject()); err == nil {
		return m.GetName()
	}
	return a.GetName()
}

// takesAll reports whether a deletion of a collection selects nothing, and so takes
// the protected definitions: it is refused before the first object is deleted.
func takesAll(ctx context.Context, a admission.Attributes) bool {
	info, ok := request.RequestInfoFrom(ctx)
	return a.GetName() == "" && (!ok || info.LabelSelector == "" && info.FieldSelector == "")
}

// keepServed refuses an update that ends the service of a protected version.
func (g *guard) keepServed(a admission.Attributes) error {
	crd, ok := a.GetObject().(*apiextensions.CustomResourceDefinition)
	if !ok {
		return nil
	}
	needed := g.protected(crd.Name)
	if needed == nil {
		return nil
	}
	for _, v := range needed.Spec.Versions {
		served := func(o apiextensions.CustomResourceDefinitionVersion) bool { return o.Name == v.Name && o.Served }
		if v.Served && !slices.ContainsFunc(crd.Spec.Versions, served) {
			return admission.NewForbidden(a, fmt.Errorf("the server needs version %s of this definition to be served", v.Name))
		}
	}
	return nil
}

func guardFactory(crds []*apiextensionsv1.CustomResourceDefinition) admission.Factory {
	return func(io.Reader) (admission.Interface, error) {
		return &guard{Handler: admission.NewHandler(admission.Update, admission.Delete), crds: crds}, nil
	}
}
