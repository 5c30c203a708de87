package device

import (
	"bytes"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// labelsOf returns the keys of the labels that a field manager applied.
func labelsOf(o metav1.Object, manager string) (map[string]bool, error) {
	owned := map[string]bool{}
	for _, entry := range o.GetManagedFields() {
		if entry.Manager != manager || entry.Operation != metav1.ManagedFieldsOperationApply || entry.Subresource != "" || entry.FieldsV1 == nil {
			continue
		}
		var set fieldpath.Set
		if err := set.FromJSON(bytes.NewReader(entry.FieldsV1.GetRawBytes())); err != nil {
			return nil, fmt.Errorf("reading the managed fields of %s: %w", o.GetName(), err)
		}
		for key := range o.GetLabels() {
			if set.Has(fieldpath.MakePathOrDie("metadata", "labels", key)) {
				owned[key] = true
			}
		}
	}
	return owned, nil
}
