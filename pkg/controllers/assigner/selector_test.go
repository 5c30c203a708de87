package assigner_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
)

func drawTargetSelector(t *rapid.T) (s metav1.LabelSelector) {
	if rapid.Bool().Draw(t, "labels") {
		s.MatchLabels = map[string]string{"group": rapid.SampledFrom(groups).Draw(t, "group")}
	}
	for range rapid.IntRange(0, 2).Draw(t, "expressions") {
		r := metav1.LabelSelectorRequirement{
			Key: rapid.SampledFrom([]string{"group", "ring"}).Draw(t, "key"),
			Operator: rapid.SampledFrom([]metav1.LabelSelectorOperator{
				metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist,
			}).Draw(t, "operator"),
		}
		if r.Operator == metav1.LabelSelectorOpIn || r.Operator == metav1.LabelSelectorOpNotIn {
			r.Values = rapid.SliceOfN(rapid.SampledFrom(groups), 1, 2).Draw(t, "values")
		}
		s.MatchExpressions = append(s.MatchExpressions, r)
	}
	return s
}

// The table selects what Kubernetes' selectors select.
func TestSelectorsMeanWhatTheyMeanInKubernetes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		selector := labels.Nothing()
		if drawn := drawTargetSelector(t); rapid.IntRange(0, 9).Draw(t, "unreadable") != 0 {
			var err error
			if selector, err = metav1.LabelSelectorAsSelector(&drawn); err != nil {
				t.Fatal(err)
			}
		}
		has := rapid.MapOf(rapid.SampledFrom([]string{"group", "ring"}), rapid.SampledFrom(groups)).Draw(t, "labels")
		table := assignment.NewTable(nil)
		table.SetDevice(assignment.Device{Name: "edge-1", Labels: has})
		table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: assigner.SelectorFacts(selector)})
		entries, _, _ := table.Manifest("edge-1")
		if selected := len(entries) > 0; selected != selector.Matches(labels.Set(has)) {
			t.Fatalf("%s selects a device with %v: %v", selector, has, selected)
		}
	})
}
