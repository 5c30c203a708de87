package apiserver

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Defaults and validation of the built-in kinds. Kubernetes keeps its own in
// internal packages; these follow its documented API.

// prepareNamespace sets what belongs to the server: an update keeps the
// finalizers, the phase and the name label.
func prepareNamespace(obj, old runtime.Object) {
	ns := obj.(*corev1.Namespace)
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
	if old == nil {
		ns.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
		ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
		return
	}
	ns.Spec.Finalizers = old.(*corev1.Namespace).Spec.Finalizers
	ns.Status = old.(*corev1.Namespace).Status
}

// prepareSecret merges stringData, which is for writing only, into data.
func prepareSecret(obj, old runtime.Object) {
	s := obj.(*corev1.Secret)
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = map[string][]byte{}
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
		if old != nil {
			s.Type = old.(*corev1.Secret).Type
		}
	}
}

func validateSecret(obj, old runtime.Object) field.ErrorList {
	s := obj.(*corev1.Secret)
	errs := validateData(slices.Collect(maps.Keys(s.Data)), sizeOf(s.Data), corev1.MaxSecretSize)
	if old == nil {
		return errs
	}
	o := old.(*corev1.Secret)
	if s.Type != o.Type {
		errs = append(errs, field.Invalid(field.NewPath("type"), s.Type, "cannot be changed: delete the secret and create it again"))
	}
	return append(errs, validateImmutable(o.Immutable, s.Immutable, apiequality.Semantic.DeepEqual(s.Data, o.Data))...)
}

func validateConfigMap(obj, old runtime.Object) field.ErrorList {
	c := obj.(*corev1.ConfigMap)
	keys := slices.AppendSeq(slices.Collect(maps.Keys(c.Data)), maps.Keys(c.BinaryData))
	errs := validateData(keys, sizeOf(c.Data)+sizeOf(c.BinaryData), corev1.MaxSecretSize)
	if old == nil {
		return errs
	}
	o := old.(*corev1.ConfigMap)
	same := apiequality.Semantic.DeepEqual(c.Data, o.Data) && apiequality.Semantic.DeepEqual(c.BinaryData, o.BinaryData)
	return append(errs, validateImmutable(o.Immutable, c.Immutable, same)...)
}

func validateData(keys []string, size, limit int) field.ErrorList {
	var errs field.ErrorList
	slices.Sort(keys)
	for i, key := range keys {
		for _, msg := range utilvalidation.IsConfigMapKey(key) {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, msg))
		}
		if i > 0 && keys[i-1] == key {
			errs = append(errs, field.Invalid(field.NewPath("binaryData").Key(key), key, "is in data as well"))
		}
	}
	if size > limit {
		errs = append(errs, field.TooLong(field.NewPath("data"), "", limit))
	}
	return errs
}

func validateImmutable(was, is *bool, sameData bool) field.ErrorList {
	if was == nil || !*was {
		return nil
	}
	if is == nil || !*is || !sameData {
		return field.ErrorList{field.Forbidden(field.NewPath("immutable"), "the object is immutable: delete it and create it again")}
	}
	return nil
}

func sizeOf[V string | []byte](m map[string]V) int {
	n := 0
	for _, v := range m {
		n += len(v)
	}
	return n
}

// validateEvent: an event lives in the namespace of its object, and those
// about cluster-scoped objects in "default" (or "kube-system").
func validateEvent(obj, _ runtime.Object) field.ErrorList {
	e := obj.(*corev1.Event)
	of := e.InvolvedObject.Namespace
	if of == e.Namespace || of == "" && (e.Namespace == metav1.NamespaceDefault || e.Namespace == metav1.NamespaceSystem) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("involvedObject", "namespace"), of,
		fmt.Sprintf("does not match the event's namespace %q", e.Namespace))}
}

func validateLease(obj, _ runtime.Object) field.ErrorList {
	spec := obj.(*coordinationv1.Lease).Spec
	var errs field.ErrorList
	if d := spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if n := spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "leaseTransitions"), *n, "must not be negative"))
	}
	return errs
}

// validateRevision: what a revision is of never changes.
func validateRevision(obj, old runtime.Object) field.ErrorList {
	r := obj.(*appsv1.ControllerRevision)
	var errs field.ErrorList
	if r.Revision < 0 {
		errs = append(errs, field.Invalid(field.NewPath("revision"), r.Revision, "must not be negative"))
	}
	data := field.NewPath("data")
	switch {
	case len(r.Data.Raw) == 0:
		errs = append(errs, field.Required(data, "is what the revision is of"))
	case old != nil && !sameJSON(r.Data.Raw, old.(*appsv1.ControllerRevision).Data.Raw):
		errs = append(errs, field.Forbidden(data, "cannot be changed"))
	}
	return errs
}

func sameJSON(a, b []byte) bool {
	var va, vb any
	return json.Unmarshal(a, &va) == nil && json.Unmarshal(b, &vb) == nil && apiequality.Semantic.DeepEqual(va, vb)
}
