package apiserver

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"
)

// systemNamespaces are created at start and cannot be deleted.
var systemNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic}

// namespaceREST gives namespaces their two-step deletion: the first step marks
// the namespace as terminating, the namespace controller empties it, and it
// goes when its spec.finalizers are empty.
type namespaceREST struct{ *store }

func newNamespaceREST(s *store) *namespaceREST {
	s.ShouldDeleteDuringUpdate = func(ctx context.Context, key string, obj, existing runtime.Object) bool {
		ns, ok := obj.(*corev1.Namespace)
		return ok && len(ns.Spec.Finalizers) == 0 && registry.ShouldDeleteDuringUpdate(ctx, key, obj, existing)
	}
	return &namespaceREST{s}
}

// Delete implements rest.GracefulDeleter.
func (r *namespaceREST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := r.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if err := checkPreconditions(ns, options); err != nil {
		return nil, false, err
	}
	if validate != nil {
		if err := validate(ctx, ns); err != nil {
			return nil, false, err
		}
	}
	if len(ns.Spec.Finalizers) == 0 {
		return r.store.Delete(ctx, name, validate, options)
	}
	if !ns.DeletionTimestamp.IsZero() {
		return ns, false, nil
	}
	terminating, err := r.markTerminating(ctx, name, options)
	return terminating, false, err
}

// DeleteCollection is refused, as in Kubernetes: one typing error would take
// every namespace.
func (r *namespaceREST) DeleteCollection(context.Context, rest.ValidateObjectFunc, *metav1.DeleteOptions, *metav1.ListOptions) (runtime.Object, error) {
	return nil, apierrors.NewMethodNotSupported(corev1.Resource("namespaces"), "deletecollection")
}

// markTerminating writes below the strategy, which would refuse a change of
// the deletion timestamp.
func (r *namespaceREST) markTerminating(ctx context.Context, name string, options *metav1.DeleteOptions) (runtime.Object, error) {
	key, err := r.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	out := &corev1.Namespace{}
	err = r.Storage.GuaranteedUpdate(ctx, key, out, false, nil, storage.SimpleUpdate(func(in runtime.Object) (runtime.Object, error) {
		ns := in.(*corev1.Namespace)
		if ns.DeletionTimestamp.IsZero() {
			now := metav1.Now()
			ns.DeletionTimestamp = &now
		}
		ns.Status.Phase = corev1.NamespaceTerminating
		return ns, nil
	}), dryrun.IsDryRun(options.DryRun), nil)
	return out, err
}

func checkPreconditions(ns *corev1.Namespace, options *metav1.DeleteOptions) error {
	if p := options.Preconditions; p != nil {
		if p.UID != nil && *p.UID != ns.UID || p.ResourceVersion != nil && *p.ResourceVersion != ns.ResourceVersion {
			return apierrors.NewConflict(corev1.Resource("namespaces"), ns.Name, errors.New("the precondition does not hold: get the namespace again"))
		}
	}
	return nil
}

// finalizeREST is the subresource namespaces/finalize: it writes
// spec.finalizers and nothing else.
type finalizeREST struct{ store *registry.Store }

// New implements rest.Storage.
func (r *finalizeREST) New() runtime.Object { return &corev1.Namespace{} }

// Destroy implements rest.Storage; the store is destroyed with its resource.
func (r *finalizeREST) Destroy() {}

// Update implements rest.Updater.
func (r *finalizeREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	s := *r.store
	s.UpdateStrategy = finalizeStrategy{r.store.UpdateStrategy}
	return s.Update(ctx, name, info, create, update, false, options)
}

type finalizeStrategy struct{ rest.RESTUpdateStrategy }

func (finalizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	finalizers := obj.(*corev1.Namespace).Spec.Finalizers
	old.(*corev1.Namespace).DeepCopyInto(obj.(*corev1.Namespace))
	obj.(*corev1.Namespace).Spec.Finalizers = finalizers
}
