package convert_test

import (
	"fmt"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/convert"
)

// What is small in a file is not large in what comes of it.
func TestWhatMultiplies(t *testing.T) {
	t.Parallel()
	var items, doubles strings.Builder
	for range 1001 {
		items.WriteString("- *a\n")
	}
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&doubles, ", {name: V%d, value: $(V%d)$(V%d)}", i, i-1, i-1)
	}
	config := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: plant}\n"
	for what, tc := range map[string]struct{ data, want string }{
		"items": {
			"apiVersion: v1\nkind: List\nitems:\n- &a {apiVersion: v1, kind: ConfigMap, metadata: {name: x}}\n" + items.String(), "more than 1000 objects",
		},
		"aliases of a text": {
			config + "data:\n  a: &a " + strings.Repeat("x", 100<<10) + "\n" + keys(200, "*a"), "aliases make more than 8 MiB",
		},
		"aliases of aliases": {
			"a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\n" +
				"d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e, *e]\n", "aliases make more than 8 MiB",
		},
		"an alias of its parent": {"a: &a [*a]\n", "aliases"},
		"a few aliases":          {config + "data:\n  a: &a text\n" + keys(50, "*a"), ""},
	} {
		r, err := convert.Kube([]string{"x.yaml"}, [][]byte{[]byte(tc.data)}, &convert.Source{})
		switch {
		case tc.want == "" && (err != nil || len(r.ConfigMaps) != 1 || r.ConfigMaps[0].Data["k49"] != "text"):
			t.Errorf("%s: %v", what, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: error is %v", what, err)
		}
	}

	pod := `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: plant}, spec: {containers: [{name: web, image: docker.io/library/nginx:1,
		command: [run, $(V1), $(V39)], env: [{name: V0, value: "0123456789"}` + doubles.String() + `]}]}}`
	r, err := convert.Kube([]string{"pod.yaml"}, [][]byte{[]byte(strings.ReplaceAll(pod, "\t", " "))}, &convert.Source{})
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, v := range r.Deployments[0].Score.Services[0].Env {
		size += len(v.Value)
	}
	if size > 1<<20 {
		t.Errorf("the variables have %d bytes", size)
	}
	said := 0
	for _, l := range r.Losses {
		if strings.Contains(l.Why, "longer than a score may be") {
			said++
		}
	}
	if said == 0 {
		t.Error("what is lost is not said")
	}
}

// keys are lines of a ConfigMap's data.
func keys(n int, value string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  k%d: %s\n", i, value)
	}
	return b.String()
}
