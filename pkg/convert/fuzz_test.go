package convert_test

import (
	"testing"

	"fleet.nationtech.io/fleet/pkg/convert"
)

// FuzzKube: whatever a file has, what is printed is valid, and each loss has a place.
func FuzzKube(f *testing.F) {
	f.Add([]byte("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: b}]}}"))
	f.Add([]byte("a: &a [*a]\n---\nnull\n---\n{apiVersion: apps/v1, kind: Deployment, spec: {template: {spec: {volumes: [{name: x, emptyDir: {}}]}}}}"))
	f.Add([]byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {<<: {a: b}}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		source := &convert.Source{}
		r, err := convert.Kube([]string{"x.yaml"}, [][]byte{data}, source)
		if err != nil {
			return
		}
		if _, err := convert.YAML(r, convert.Target{Namespace: "default"}); err != nil {
			t.Errorf("%q: %v", data, err)
		}
		for _, l := range r.Losses {
			if source.Find(l.Path).File == "" {
				t.Errorf("%q: %s is nowhere", data, l.What())
			}
		}
	})
}
