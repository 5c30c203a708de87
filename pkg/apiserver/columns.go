package apiserver

import (
	"context"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
)

// column is one column of `kubectl get`.
type column struct {
	name string
	// wide columns show with -o wide only.
	wide  bool
	value func(runtime.Object) any
}

var (
	nameColumn = column{name: "Name", value: func(o runtime.Object) any { return accessor(o).GetName() }}
	ageColumn  = column{name: "Age", value: func(o runtime.Object) any { return since(accessor(o).GetCreationTimestamp()) }}

	namespaceColumns = []column{
		nameColumn,
		{name: "Status", value: func(o runtime.Object) any { return string(o.(*corev1.Namespace).Status.Phase) }},
		ageColumn,
	}
	secretColumns = []column{
		nameColumn,
		{name: "Type", value: func(o runtime.Object) any { return string(o.(*corev1.Secret).Type) }},
		{name: "Data", value: func(o runtime.Object) any { return len(o.(*corev1.Secret).Data) }},
		ageColumn,
	}
	configMapColumns = []column{
		nameColumn,
		{name: "Data", value: func(o runtime.Object) any {
			c := o.(*corev1.ConfigMap)
			return len(c.Data) + len(c.BinaryData)
		}},
		ageColumn,
	}
	eventColumns = []column{
		{name: "Last Seen", value: func(o runtime.Object) any { return since(lastSeen(o.(*corev1.Event))) }},
		{name: "Type", value: func(o runtime.Object) any { return o.(*corev1.Event).Type }},
		{name: "Reason", value: func(o runtime.Object) any { return o.(*corev1.Event).Reason }},
		{name: "Object", value: func(o runtime.Object) any { return objectOf(o.(*corev1.Event)) }},
		{name: "Count", wide: true, value: func(o runtime.Object) any { return o.(*corev1.Event).Count }},
		{name: "Name", wide: true, value: nameColumn.value},
		{name: "Message", value: func(o runtime.Object) any { return o.(*corev1.Event).Message }},
	}
	leaseColumns = []column{
		nameColumn,
		{name: "Holder", value: func(o runtime.Object) any {
			if h := o.(*coordinationv1.Lease).Spec.HolderIdentity; h != nil {
				return *h
			}
			return ""
		}},
		ageColumn,
	}
	revisionColumns = []column{
		nameColumn,
		{name: "Controller", value: func(o runtime.Object) any { return controllerOf(accessor(o)) }},
		{name: "Revision", value: func(o runtime.Object) any { return o.(*appsv1.ControllerRevision).Revision }},
		ageColumn,
	}
)

// controllerOf names the owner as kubectl does.
func controllerOf(o metav1.Object) string {
	owner := metav1.GetControllerOf(o)
	if owner == nil {
		return "<none>"
	}
	kind := strings.ToLower(owner.Kind)
	if gv, err := schema.ParseGroupVersion(owner.APIVersion); err == nil && gv.Group != "" {
		kind += "." + gv.Group
	}
	return kind + "/" + owner.Name
}

// table converts objects to what kubectl prints.
type table struct{ columns []column }

// ConvertToTable implements rest.TableConvertor.
func (t table) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	out := &metav1.Table{}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		out.ColumnDefinitions = t.definitions()
	}
	if m, err := meta.ListAccessor(obj); err == nil {
		out.ResourceVersion, out.Continue, out.RemainingItemCount = m.GetResourceVersion(), m.GetContinue(), m.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(obj); err == nil {
		out.ResourceVersion = m.GetResourceVersion()
	}
	if !meta.IsListType(obj) {
		out.Rows = []metav1.TableRow{t.row(obj)}
		return out, nil
	}
	err := meta.EachListItem(obj, func(item runtime.Object) error {
		out.Rows = append(out.Rows, t.row(item))
		return nil
	})
	return out, err
}

func (t table) definitions() []metav1.TableColumnDefinition {
	defs := make([]metav1.TableColumnDefinition, len(t.columns))
	for i, c := range t.columns {
		defs[i] = metav1.TableColumnDefinition{Name: c.name, Type: "string", Description: c.name}
		if c.name == nameColumn.name {
			defs[i].Format = "name"
		}
		if c.wide {
			defs[i].Priority = 1
		}
	}
	return defs
}

func (t table) row(o runtime.Object) metav1.TableRow {
	row := metav1.TableRow{Object: runtime.RawExtension{Object: o}, Cells: make([]any, len(t.columns))}
	for i, c := range t.columns {
		row.Cells[i] = c.value(o)
	}
	return row
}

func accessor(o runtime.Object) metav1.Object {
	m, err := meta.Accessor(o)
	if err != nil {
		return &metav1.ObjectMeta{}
	}
	return m
}

func since(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

func lastSeen(e *corev1.Event) metav1.Time {
	switch {
	case e.Series != nil:
		return metav1.Time{Time: e.Series.LastObservedTime.Time}
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp
	case !e.EventTime.IsZero():
		return metav1.Time{Time: e.EventTime.Time}
	}
	return e.CreationTimestamp
}

func objectOf(e *corev1.Event) string {
	if e.InvolvedObject.Kind == "" {
		return e.InvolvedObject.Name
	}
	return e.InvolvedObject.Kind + "/" + e.InvolvedObject.Name
}
