package convert_test

import (
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/convert"
	"fleet.nationtech.io/fleet/pkg/score/template"
)

// What looks like an expression of a score is text in other formats.
func TestTextsStayTexts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"${spring.port}", "$${a.b}", "a ${x.y:-z} $", "${HOME}", "$(A)", "${device.name}", "$$$${a.b}"} {
		s := types.ServiceConfig{Name: "web"}
		s.Image, s.Restart, s.Command, s.Environment = "nginx:1", "always", types.ShellCommand{text}, types.MappingWithEquals{"A": &text}
		s.Labels = types.Labels{"app": text}
		r := convert.Compose(&types.Project{Name: "p", WorkingDir: "/project", Services: types.Services{"web": s}}, noFiles{})
		if len(r.Losses) > 0 {
			t.Errorf("%s: %v", text, r.Losses)
			continue
		}
		web := r.Deployments[0].Score.Services[0]
		for field, got := range map[string]string{"args": web.Args[0], "env": web.Env[0].Value, "label": web.Labels["app"]} {
			if template.Is(got) {
				parsed, err := template.Parse(got)
				if err != nil || len(parsed.Sources()) > 0 {
					t.Errorf("%s: %s: %q is an expression (%v)", field, text, got, err)
					continue
				}
				got, _ = parsed.Render(nil, 1000)
			}
			if got != text {
				t.Errorf("%s: %q became %q", field, text, got)
			}
		}
	}
}

// Kubernetes puts variables into commands.
func TestVariablesInCommands(t *testing.T) {
	t.Parallel()
	const pod = `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: plant}, spec: {containers: [{name: web, image: docker.io/library/nginx:1,
		command: [run, --port=$(PORT), --url=$(URL), $$(PORT), $(NOBODY), '${a.b}'], args: [$(SECRET)], env: [{name: PORT, value: "80"},
		{name: URL, value: "http://$(HOST):$(PORT)"}, {name: SECRET, valueFrom: {secretKeyRef: {name: s, key: k}}},
		{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}, {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}},
		{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}]}}`
	r, err := convert.Kube([]string{"pod.yaml"}, [][]byte{[]byte(strings.ReplaceAll(pod, "\t", " "))}, &convert.Source{})
	if err != nil {
		t.Fatal(err)
	}
	got := checked(t, r)
	for _, part := range []string{
		`"command":["run","--port=80","--url=http://$(HOST):80","$(PORT)","$(NOBODY)","$${a.b}"]`, `"args":["$(SECRET)"]`, "puts the value of SECRET here",
		`{"name":"NODE","value":"${device.name}"}`, `{"name":"NS","value":"plant"}`, `"Path":["Pod/p","spec","containers","[0]","env","[5]"]`,
	} {
		if !strings.Contains(got, part) {
			t.Errorf("%s is missing in %s", part, got)
		}
	}
	if len(r.Losses) != 2 {
		t.Errorf("%v", r.Losses)
	}
}
