package client

import (
	"bytes"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
)

// DeviceManager is the field manager that applies to a Device what the device reports.
// Devices of an informer have its managed fields, and no others, which tell what of the
// labels is from a report; they must not be written back.
const DeviceManager = "fleet-device"

// appliedBy returns what DeviceManager applied, or nil.
func appliedBy(all []metav1.ManagedFieldsEntry) *metav1.FieldsV1 {
	for _, e := range all {
		if e.Manager == DeviceManager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" {
			return e.FieldsV1
		}
	}
	return nil
}

// fieldsOf are the managed fields of a Device of an informer.
func fieldsOf(applied string) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{{
		Manager: DeviceManager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(applied),
	}}
}

// storedFields is what DeviceManager applied to a Device that is stored.
type storedFields string

func (f storedFields) entries() []metav1.ManagedFieldsEntry {
	if f == "" {
		return nil
	}
	return fieldsOf(string(f))
}

// Parts of an entry as an API server writes it: without spaces, and with the names in
// the order of the alphabet.
var (
	beginOfFields = []byte(`"fieldsV1":`)
	endOfFields   = []byte(`,"manager":"` + DeviceManager + `","operation":"Apply"`)
	ofSubresource = []byte(`,"subresource":`)
	anyApplied    = []byte(`"Apply"`)
)

// UnmarshalJSON implements json.Unmarshaler. To decode all of them takes as long as the
// rest of a Device.
func (f *storedFields) UnmarshalJSON(data []byte) error {
	for rest := data; ; {
		before, after, found := bytes.Cut(rest, endOfFields)
		if !found {
			break
		}
		if begin := bytes.LastIndex(before, beginOfFields); begin >= 0 && !bytes.HasPrefix(after, ofSubresource) {
			*f = storedFields(before[begin+len(beginOfFields):])
			return nil
		}
		rest = after
	}
	if !bytes.Contains(data, anyApplied) {
		return nil
	}
	var all []metav1.ManagedFieldsEntry // something else was applied, or it was written otherwise
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	if applied := appliedBy(all); applied != nil {
		*f = storedFields(applied.GetRawString())
	}
	return nil
}
