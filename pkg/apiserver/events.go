package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// eventsREST shows the events of the core group in group events.k8s.io, where
// newer clients (k9s) read them. Events are written in the core group.
type eventsREST struct{ core *store }

// New implements rest.Storage.
func (*eventsREST) New() runtime.Object { return &eventsv1.Event{} }

// NewList implements rest.Lister.
func (*eventsREST) NewList() runtime.Object { return &eventsv1.EventList{} }

// Destroy implements rest.Storage; the store is destroyed with its resource.
func (*eventsREST) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (*eventsREST) NamespaceScoped() bool { return true }

// GetSingularName implements rest.SingularNameProvider.
func (*eventsREST) GetSingularName() string { return "event" }

// Get implements rest.Getter.
func (r *eventsREST) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	e, err := r.core.Get(ctx, name, o)
	return eventOf(e), err
}

// List implements rest.Lister.
func (r *eventsREST) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	list, err := r.core.List(ctx, inCore(o))
	if err != nil {
		return nil, err
	}
	core := list.(*corev1.EventList)
	out := &eventsv1.EventList{ListMeta: core.ListMeta, Items: make([]eventsv1.Event, len(core.Items))}
	for i := range core.Items {
		out.Items[i] = *eventOf(&core.Items[i]).(*eventsv1.Event)
	}
	return out, nil
}

// Watch implements rest.Watcher.
func (r *eventsREST) Watch(ctx context.Context, o *internalversion.ListOptions) (watch.Interface, error) {
	w, err := r.core.Watch(ctx, inCore(o))
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
		e.Object = eventOf(e.Object)
		return e, true
	}), nil
}

// ConvertToTable implements rest.TableConvertor.
func (r *eventsREST) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return table{columns: eventViewColumns}.ConvertToTable(ctx, obj, options)
}

// fieldsInCore are the fields that a selector may use, and how the core group names
// them.
var fieldsInCore = map[string]string{
	"regarding.kind": "involvedObject.kind", "regarding.namespace": "involvedObject.namespace", "regarding.name": "involvedObject.name",
	"regarding.uid": "involvedObject.uid", "regarding.apiVersion": "involvedObject.apiVersion", "regarding.fieldPath": "involvedObject.fieldPath",
	"reportingController": "reportingComponent", "reason": "reason", "type": "type",
}

func acceptEventFields(label, value string) (string, string, error) {
	if _, ok := fieldsInCore[label]; ok {
		return label, value, nil
	}
	return runtime.DefaultMetaV1FieldSelectorConversion(label, value)
}

// inCore returns options that the core group understands.
func inCore(o *internalversion.ListOptions) *internalversion.ListOptions {
	if o == nil || o.FieldSelector == nil {
		return o
	}
	out := o.DeepCopy()
	selector, err := o.FieldSelector.Transform(func(field, value string) (string, string, error) {
		if core, ok := fieldsInCore[field]; ok {
			field = core
		}
		return field, value, nil
	})
	if err == nil { // the function above returns none
		out.FieldSelector = selector
	}
	return out
}

// eventOf returns what is not an event of the core group as it is.
func eventOf(o runtime.Object) runtime.Object {
	e, ok := o.(*corev1.Event)
	if !ok {
		return o
	}
	out := &eventsv1.Event{
		ObjectMeta: e.ObjectMeta, EventTime: e.EventTime, ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
		Action: e.Action, Reason: e.Reason, Regarding: e.InvolvedObject, Related: e.Related, Note: e.Message, Type: e.Type,
		DeprecatedSource: e.Source, DeprecatedFirstTimestamp: e.FirstTimestamp, DeprecatedLastTimestamp: e.LastTimestamp, DeprecatedCount: e.Count,
	}
	if s := e.Series; s != nil {
		out.Series = &eventsv1.EventSeries{Count: s.Count, LastObservedTime: s.LastObservedTime}
	}
	return out
}

// coreEventOf returns as much of an event of the core group as columns show.
func coreEventOf(o runtime.Object) *corev1.Event {
	e := o.(*eventsv1.Event)
	out := &corev1.Event{
		ObjectMeta: e.ObjectMeta, EventTime: e.EventTime, Reason: e.Reason, InvolvedObject: e.Regarding, Message: e.Note, Type: e.Type,
		LastTimestamp: e.DeprecatedLastTimestamp, Count: e.DeprecatedCount,
	}
	if s := e.Series; s != nil {
		out.Series = &corev1.EventSeries{Count: s.Count, LastObservedTime: s.LastObservedTime}
	}
	return out
}

// eventViewColumns are those of the core group.
var eventViewColumns = func() (columns []column) {
	for _, c := range eventColumns {
		columns = append(columns, column{name: c.name, wide: c.wide, value: func(o runtime.Object) any { return c.value(coreEventOf(o)) }})
	}
	return columns
}()
