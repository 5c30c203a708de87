package apiserver

import (
	"context"
	"errors"
	"io"
	"slices"

	"k8s.io/apiserver/pkg/admission"
)

const guardName = "SystemObjects"

// guard refuses the deletion of objects that the server cannot work without.
type guard struct {
	*admission.Handler
	// crds are the names of protected definitions.
	crds []string
}

// Validate implements admission.ValidationInterface.
func (g *guard) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" {
		return nil
	}
	switch a.GetResource().GroupResource().String() {
	case "customresourcedefinitions.apiextensions.k8s.io":
		// An empty name is a deletion of the whole collection.
		if a.GetName() == "" || slices.Contains(g.crds, a.GetName()) {
			return admission.NewForbidden(a, errors.New("the server needs this definition, and deleting it would delete every object of its kind"))
		}
	case "namespaces":
		if slices.Contains(systemNamespaces, a.GetName()) {
			return admission.NewForbidden(a, errors.New("this namespace may not be deleted"))
		}
	}
	return nil
}

func guardFactory(crds []string) admission.Factory {
	return func(io.Reader) (admission.Interface, error) {
		return &guard{Handler: admission.NewHandler(admission.Delete), crds: crds}, nil
	}
}
