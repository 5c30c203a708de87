package apiserver

import (
	"context"
	"fmt"
	"io"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"

	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
)

const definitionsName = "Definitions"

// Bounds of definitions. Each version is served, and each rule compiled, for as
// long as the server runs: a thousand rules take a second and megabytes.
const (
	maxDefinitions = 256
	// maxDefinitionBytes bounds all of them together: in memory they take some 40
	// times as much.
	maxDefinitionBytes = 8 << 20
	maxVersions        = 10
	// maxSchemas is more than the largest well-known definitions have: Argo CD's
	// ApplicationSet nests its generators, and has 9,900.
	maxSchemas = 12288
	maxRules   = 500
	maxDepth   = 64
)

// definitions refuses CustomResourceDefinitions that cost the server too much,
// or make it call others.
type definitions struct {
	*admission.Handler

	sizes func(ctx context.Context, prefix string) (datastore.Size, error)
}

// Validate implements admission.ValidationInterface.
func (d *definitions) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	crd, ok := a.GetObject().(*apiextensions.CustomResourceDefinition)
	if !ok || a.GetSubresource() != "" {
		return nil
	}
	var before cost
	if old, ok := a.GetOldObject().(*apiextensions.CustomResourceDefinition); ok {
		if old.Generation == crd.Generation {
			return nil // only its finalizers, perhaps
		}
		before = costOf(old)
	}
	if costOf(crd).schemas > before.schemas {
		if err := d.room(ctx, a); err != nil {
			return err
		}
	}
	if errs := checkDefinition(crd); len(errs) > 0 {
		return apierrors.NewInvalid(a.GetKind().GroupKind(), a.GetName(), errs)
	}
	return nil
}

func (d *definitions) room(ctx context.Context, a admission.Attributes) error {
	size, err := d.sizes(ctx, StoragePrefix+"/apiextensions.k8s.io/"+definitionsResource+"/")
	if err != nil {
		return err
	}
	if a.GetOperation() == admission.Create && size.Objects >= maxDefinitions {
		return admission.NewForbidden(a, fmt.Errorf("there are %d definitions, at most %d are allowed", size.Objects, maxDefinitions))
	}
	if size.Bytes > maxDefinitionBytes {
		return admission.NewForbidden(a, fmt.Errorf("the definitions have %d bytes together, at most %d are allowed", size.Bytes, maxDefinitionBytes))
	}
	return nil
}

func checkDefinition(crd *apiextensions.CustomResourceDefinition) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	if c := crd.Spec.Conversion; c != nil && c.Strategy == apiextensions.WebhookConverter {
		errs = append(errs, field.Forbidden(spec.Child("conversion", "strategy"), errNoWebhooks.Error()+": None is allowed"))
	}
	if n := len(crd.Spec.Versions); n > maxVersions {
		errs = append(errs, field.TooMany(spec.Child("versions"), n, maxVersions))
	}
	c := costOf(crd)
	for _, bound := range []struct {
		what    string
		n, most int
	}{{"validation rules", c.rules, maxRules}, {"levels in its schema", c.depth, maxDepth}, {"fields in its schemas", c.schemas, maxSchemas}} {
		if bound.n > bound.most {
			errs = append(errs, field.Forbidden(spec, fmt.Sprintf("it has %d %s, at most %d are allowed", bound.n, bound.what, bound.most)))
		}
	}
	return errs
}

// schemasOf are the schemas of all versions.
func schemasOf(crd *apiextensions.CustomResourceDefinition) (all []*apiextensions.JSONSchemaProps) {
	add := func(v *apiextensions.CustomResourceValidation) {
		if v != nil && v.OpenAPIV3Schema != nil {
			all = append(all, v.OpenAPIV3Schema)
		}
	}
	add(crd.Spec.Validation)
	for i := range crd.Spec.Versions {
		add(crd.Spec.Versions[i].Schema)
	}
	return all
}

// cost is what schemas have.
type cost struct{ schemas, rules, depth int }

func costOf(crd *apiextensions.CustomResourceDefinition) (c cost) {
	for _, s := range schemasOf(crd) {
		c.add(s, 1)
	}
	return c
}

// add adds a schema that is so deep, and all that are in it.
func (c *cost) add(s *apiextensions.JSONSchemaProps, level int) {
	c.schemas++
	c.rules += len(s.XValidations)
	c.depth = max(c.depth, level)
	each := func(sub *apiextensions.JSONSchemaProps) {
		if sub != nil {
			c.add(sub, level+1)
		}
	}
	for _, m := range []map[string]apiextensions.JSONSchemaProps{s.Properties, s.PatternProperties, s.Definitions} {
		for name := range m {
			each(new(m[name]))
		}
	}
	for _, list := range [][]apiextensions.JSONSchemaProps{s.AllOf, s.AnyOf, s.OneOf} {
		for i := range list {
			each(&list[i])
		}
	}
	each(s.Not)
	if s.Items != nil {
		each(s.Items.Schema)
		for i := range s.Items.JSONSchemas {
			each(&s.Items.JSONSchemas[i])
		}
	}
	for _, more := range []*apiextensions.JSONSchemaPropsOrBool{s.AdditionalProperties, s.AdditionalItems} {
		if more != nil {
			each(more.Schema)
		}
	}
}

func definitionsFactory(sizes func(context.Context, string) (datastore.Size, error)) admission.Factory {
	return func(io.Reader) (admission.Interface, error) {
		return &definitions{Handler: admission.NewHandler(admission.Create, admission.Update), sizes: sizes}, nil
	}
}
