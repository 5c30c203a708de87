package apiserver

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
)

type validateFunc func(obj, old runtime.Object) field.ErrorList

// store is the REST storage of one built-in kind.
type store struct {
	*registry.Store
	short []string
}

// ShortNames implements rest.ShortNamesProvider.
func (s *store) ShortNames() []string { return s.short }

func newStore(scheme *runtime.Scheme, options generic.RESTOptionsGetter, r resource) (*store, error) {
	gr := r.gv.WithResource(r.plural).GroupResource()
	singular := gr
	singular.Resource = r.singular
	strategy := &strategy{ObjectTyper: scheme, NameGenerator: names.SimpleNameGenerator, resource: r}
	s := &registry.Store{
		NewFunc:                   func() runtime.Object { return r.obj.DeepCopyObject() },
		NewListFunc:               func() runtime.Object { return r.list.DeepCopyObject() },
		DefaultQualifiedResource:  gr,
		SingularQualifiedResource: singular,
		CreateStrategy:            strategy,
		UpdateStrategy:            strategy,
		DeleteStrategy:            strategy,
		TableConvertor:            table{columns: r.columns},
		PredicateFunc: func(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
			return storage.SelectionPredicate{Label: l, Field: f, GetAttrs: strategy.attrs}
		},
	}
	if r.ttl > 0 {
		s.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return uint64(r.ttl.Seconds()), nil }
	}
	if err := s.CompleteWithOptions(&generic.StoreOptions{RESTOptions: options, AttrFunc: strategy.attrs}); err != nil {
		return nil, err
	}
	return &store{Store: s, short: r.short}, nil
}

// strategy is the one create, update and delete strategy; what differs
// between kinds is in resource.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	resource resource
}

func (s *strategy) NamespaceScoped() bool                         { return s.resource.namespaced }
func (s *strategy) AllowCreateOnUpdate(context.Context) bool      { return false }
func (s *strategy) AllowUnconditionalUpdate(context.Context) bool { return true }
func (s *strategy) Canonicalize(runtime.Object)                   {}
func (s *strategy) PrepareForCreate(_ context.Context, o runtime.Object) {
	if s.resource.prepare != nil {
		s.resource.prepare(o, nil)
	}
}

func (s *strategy) PrepareForUpdate(_ context.Context, o, old runtime.Object) {
	if s.resource.prepare != nil {
		s.resource.prepare(o, old)
	}
}

func (s *strategy) Validate(_ context.Context, o runtime.Object) field.ErrorList {
	m, err := meta.Accessor(o)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	validName := s.resource.validName
	if validName == nil {
		validName = validation.NameIsDNSSubdomain
	}
	errs := validation.ValidateObjectMetaAccessor(m, s.resource.namespaced, validName, field.NewPath("metadata"))
	if s.resource.validate != nil {
		errs = append(errs, s.resource.validate(o, nil)...)
	}
	return errs
}

func (s *strategy) ValidateUpdate(_ context.Context, o, old runtime.Object) field.ErrorList {
	m, err := meta.Accessor(o)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	oldMeta, err := meta.Accessor(old)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	errs := validation.ValidateObjectMetaAccessorUpdate(m, oldMeta, field.NewPath("metadata"))
	if s.resource.validate != nil {
		errs = append(errs, s.resource.validate(o, old)...)
	}
	return errs
}

func (s *strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }
func (s *strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// attrs returns what selectors are matched against.
func (s *strategy) attrs(o runtime.Object) (labels.Set, fields.Set, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return nil, nil, err
	}
	set := fields.Set{"metadata.name": m.GetName()}
	if s.resource.namespaced {
		set["metadata.namespace"] = m.GetNamespace()
	}
	if s.resource.fields != nil {
		for k, v := range s.resource.fields(o) {
			set[k] = v
		}
	}
	return m.GetLabels(), set, nil
}
