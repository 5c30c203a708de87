package apiserver

import (
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// newScheme registers the built-in kinds. The external v1 types double as the
// internal version, so there are no conversions and no internal types.
func newScheme() (*runtime.Scheme, serializer.CodecFactory) {
	s := runtime.NewScheme()
	v1 := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(s, v1)
	s.AddUnversionedTypes(v1, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	register(s, corev1.SchemeGroupVersion,
		&corev1.Namespace{}, &corev1.NamespaceList{}, &corev1.Secret{}, &corev1.SecretList{},
		&corev1.ConfigMap{}, &corev1.ConfigMapList{}, &corev1.Event{}, &corev1.EventList{})
	register(s, appsv1.SchemeGroupVersion, &appsv1.ControllerRevision{}, &appsv1.ControllerRevisionList{})
	register(s, coordinationv1.SchemeGroupVersion, &coordinationv1.Lease{}, &coordinationv1.LeaseList{})
	register(s, authorizationv1.SchemeGroupVersion, &authorizationv1.SelfSubjectAccessReview{}, &authorizationv1.SelfSubjectRulesReview{})
	register(s, authenticationv1.SchemeGroupVersion, &authenticationv1.SelfSubjectReview{})
	register(s, eventsv1.SchemeGroupVersion, &eventsv1.Event{}, &eventsv1.EventList{})
	utilruntime.Must(s.AddFieldLabelConversionFunc(eventsv1.SchemeGroupVersion.WithKind("Event"), acceptEventFields))
	for kind, fieldsOf := range map[string]fields.Set{
		"Namespace": namespaceFields(&corev1.Namespace{}),
		"Secret":    secretFields(&corev1.Secret{}),
		"Event":     eventFields(&corev1.Event{}),
	} {
		utilruntime.Must(s.AddFieldLabelConversionFunc(corev1.SchemeGroupVersion.WithKind(kind), acceptFields(fieldsOf)))
	}
	return s, serializer.NewCodecFactory(s)
}

func register(s *runtime.Scheme, gv schema.GroupVersion, objs ...runtime.Object) {
	s.AddKnownTypes(gv, objs...)
	s.AddKnownTypes(schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}, objs...)
	metav1.AddToGroupVersion(s, gv)
	utilruntime.Must(s.SetVersionPriority(gv))
}

// The fields besides name and namespace that a field selector may use.

func namespaceFields(o runtime.Object) fields.Set {
	return fields.Set{"status.phase": string(o.(*corev1.Namespace).Status.Phase)}
}

func secretFields(o runtime.Object) fields.Set {
	return fields.Set{"type": string(o.(*corev1.Secret).Type)}
}

func eventFields(o runtime.Object) fields.Set {
	e := o.(*corev1.Event)
	return fields.Set{
		"involvedObject.kind":       e.InvolvedObject.Kind,
		"involvedObject.namespace":  e.InvolvedObject.Namespace,
		"involvedObject.name":       e.InvolvedObject.Name,
		"involvedObject.uid":        string(e.InvolvedObject.UID),
		"involvedObject.apiVersion": e.InvolvedObject.APIVersion,
		"involvedObject.fieldPath":  e.InvolvedObject.FieldPath,
		"reason":                    e.Reason,
		"reportingComponent":        e.ReportingController,
		"source":                    e.Source.Component,
		"type":                      e.Type,
	}
}

func acceptFields(known fields.Set) runtime.FieldLabelConversionFunc {
	return func(label, value string) (string, string, error) {
		if known.Has(label) {
			return label, value, nil
		}
		return runtime.DefaultMetaV1FieldSelectorConversion(label, value)
	}
}
