package acceptance_test

import (
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/score/template"
)

const site = `{"services":[{"name":"web","image":"localhost/web:1","env":[{"name":"SITE","value":"${device.labels.site}"}],"volumes":[{"hostPath":"/srv/${device.labels.site}","mountPath":"/srv"}]}]}`

func TestTemplateIsAskedOnceMore(t *testing.T) {
	t.Parallel()
	privileged := map[string]string{v1alpha1.LabelPrivilege: "privileged"}
	if v := none.Evaluate(deployment(score.TypePodmanV0, site), nil, secretsOf{}); v.Accepted || v.Reason != v1alpha1.ReasonPrivilegeExceeded {
		t.Fatalf("in a namespace that does not allow it: %+v", v)
	}
	v := none.Evaluate(deployment(score.TypePodmanV0, site), privileged, secretsOf{})
	if !v.Accepted || v.Template == nil || v.Entry.Hash != score.Hash(v.Body) {
		t.Fatalf("%+v", v)
	}
	for value, want := range map[string]string{
		"plant-1": "", "../etc": `data.services[0].volumes[0].hostPath: "/srv/../etc" is not an absolute path`, "a:b": "is not an absolute path", "a\x00": "has a control character",
	} {
		body, err := v.Template.Render(func(template.Source) (string, bool) { return value, true })
		switch {
		case want == "" && (err != nil || !strings.Contains(string(body), `"value":"plant-1"`) || !strings.Contains(string(body), `"hostPath":"/srv/plant-1"`)):
			t.Errorf("%q became %s, %v", value, body, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || body != nil):
			t.Errorf("%q: %v, want %q", value, err, want)
		}
	}
	_, err := v.Template.Render(func(template.Source) (string, bool) { return "", false })
	const want = "spec.score.data.services[0].env[0].value: this device has no device.labels.site, and the score gives no default"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if v := none.Evaluate(deployment(score.TypePodmanV0, plain), nil, secretsOf{}); v.Template != nil {
		t.Error("a score without expressions has a template")
	}
}

func BenchmarkRender(b *testing.B) {
	v := none.Evaluate(deployment(score.TypePodmanV0, site), map[string]string{v1alpha1.LabelPrivilege: "privileged"}, secretsOf{})
	for b.Loop() {
		if _, err := v.Template.Render(func(template.Source) (string, bool) { return "plant-1", true }); err != nil {
			b.Fatal(err)
		}
	}
}
