package embedserver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/score"
)

// What no device would be sent is refused, whatever its type; characters that some encoders
// escape do not make it longer.
func TestLongScoresAreRefused(t *testing.T) {
	t.Parallel()
	others := acceptance.Rules{Types: []string{"Other"}}
	privileged := func() (map[string]string, error) {
		return map[string]string{v1alpha1.LabelPrivilege: "privileged"}, nil
	}
	const frame = len(`{"data":{"text":""},"type":"Other"}`)
	for _, character := range []string{"x", "<"} {
		for length, refused := range map[int]bool{score.MaxSize - frame: false, score.MaxSize - frame + 1: true} {
			part := map[string]any{"type": "Other", "data": map[string]any{"text": strings.Repeat(character, length)}}
			o, err := embedserver.ReviewScore(others, part, privileged)
			if err != nil {
				t.Fatal(err)
			}
			if said := strings.Contains(fmt.Sprint(o.Objections), "at most 262144 are allowed"); said != refused {
				t.Errorf("%d times %s: %+v", length, character, o.Objections)
			}
			if len(o.Warnings) == 1 == refused {
				t.Errorf("warnings: %q", o.Warnings)
			}
		}
	}
}

// Labels that every Device has by its name are what the server says, whoever writes. What is
// wrong in the store keeps nobody from changing another label.
func TestLabelsOfTheServerAreNotSet(t *testing.T) {
	t.Parallel()
	type labels map[string]any
	wrong := labels{"device-id": "edge-2", "fleet.nationtech.io/device-id": "edge-2", "kubernetes.io/os": "vms", "site": "a"}
	for name, tc := range map[string]struct {
		labels, old labels
		refused     []string
	}{
		"others":              {labels{"site": "a", "kubernetes.io/arch": "arm64"}, nil, nil},
		"its own":             {labels{"device-id": "edge-1", "fleet.nationtech.io/device-id": "edge-1", "kubernetes.io/os": "linux"}, nil, nil},
		"none of them":        {labels{}, wrong, nil},
		"all wrong":           {wrong, nil, []string{"device-id", "fleet.nationtech.io/device-id", "kubernetes.io/os"}},
		"made wrong":          {labels{"device-id": "edge-2"}, labels{"device-id": "edge-1"}, []string{"device-id"}},
		"wrong in the store":  {labels{"device-id": "edge-2", "site": "b"}, wrong, nil},
		"made wrong in turn":  {labels{"device-id": "edge-3"}, wrong, []string{"device-id"}},
		"set right by itself": {labels{"device-id": "edge-1"}, wrong, nil},
	} {
		var got []string
		for _, o := range embedserver.ReviewLabels(apiserver.Subject{Name: "edge-1", Part: tc.labels, Old: tc.old}).Objections {
			got = append(got, strings.TrimSuffix(strings.TrimPrefix(o.Field, "metadata.labels["), "]"))
			if !strings.Contains(o.Message, "the server sets this label") || strings.Contains(o.Message, "\n") {
				t.Errorf("%s: it says %q", name, o.Message)
			}
		}
		if diff := cmp.Diff(tc.refused, got); diff != "" {
			t.Errorf("%s: refused (-want +got):\n%s", name, diff)
		}
	}
}

// All mistakes of a selector are named at once.
func TestSelectorsThatCannotBeReadAreRefused(t *testing.T) {
	t.Parallel()
	bad := map[string]any{
		"matchLabels":      map[string]any{"lab": "in v"},
		"matchExpressions": []any{map[string]any{"key": "group", "operator": "in", "values": []any{"a"}}, map[string]any{"key": "ring", "operator": "Exists", "values": []any{"a"}}},
	}
	for name, tc := range map[string]struct {
		part   map[string]any
		fields []string
	}{
		"good": {map[string]any{"matchLabels": map[string]any{"lab": "inv"}}, nil},
		"all":  {map[string]any{}, nil},
		"bad":  {bad, []string{"spec.targetSelector.matchLabels", "spec.targetSelector.matchExpressions[0].operator", "spec.targetSelector.matchExpressions[1].values"}},
	} {
		o, err := embedserver.ReviewSelector(apiserver.Subject{Part: tc.part})
		var fields []string
		for _, objection := range o.Objections {
			fields = append(fields, objection.Field)
		}
		slices.Sort(fields)
		slices.Sort(tc.fields)
		if diff := cmp.Diff(tc.fields, fields); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// A privilege that does not exist is refused in the words of its parser. A namespace that has one
// already can be changed elsewhere, and set right.
func TestUnknownPrivilegesOfNamespacesAreRefused(t *testing.T) {
	t.Parallel()
	label := func(value string) map[string]any { return map[string]any{v1alpha1.LabelPrivilege: value} }
	const words = `unknown privilege "Privileged": use restricted, baseline or privileged`
	for name, tc := range map[string]struct {
		labels, old map[string]any
		want        string
	}{
		"none":                     {map[string]any{"team": "a"}, nil, ""},
		"empty":                    {label(""), nil, ""},
		"restricted":               {label("restricted"), nil, ""},
		"baseline":                 {label("baseline"), label("privileged"), ""},
		"privileged":               {label("privileged"), nil, ""},
		"unknown":                  {label("Privileged"), nil, words},
		"made unknown":             {label("Privileged"), label("privileged"), words},
		"unknown before":           {map[string]any{v1alpha1.LabelPrivilege: "Privileged", "team": "a"}, label("Privileged"), ""},
		"another unknown one":      {label("Privileged"), label("all"), words},
		"an unknown one set right": {label("privileged"), label("all"), ""},
	} {
		var want []apiserver.Objection
		if tc.want != "" {
			want = []apiserver.Objection{{Field: "metadata.labels[fleet.nationtech.io/privilege]", Message: tc.want}}
		}
		if diff := cmp.Diff(want, embedserver.ReviewPrivilege(apiserver.Subject{Name: "plant", Part: tc.labels, Old: tc.old}).Objections); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
