package score_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/score/template"
)

// everywhere has an expression in each field that may have one.
const everywhere = `{
	"network": {"hostAliases": [{"ip": "${device.annotations.plc}", "hostnames": ["plc"]}], "dns": {"nameservers": ["${device.annotations.dns:-1.1.1.1}"]}},
	"initContainers": [{"name": "init", "image": "localhost/a:1", "args": ["${device.name}"]}],
	"services": [
		{"name": "web", "image": "localhost/a:1", "command": ["run", "--site=${device.labels.site}"], "args": ["${device.labels.site:-none}", "$${device.name}", "echo ${HOME}"],
		 "env": [{"name": "ARCH", "value": "${device.inventory.arch}"}], "workingDir": "${device.annotations.home}",
		 "ports": [{"hostPort": 8080, "containerPort": 80, "hostIP": "${device.annotations.a}"}, {"hostPort": 8080, "containerPort": 80, "hostIP": "${device.annotations.b}"}],
		 "volumes": [{"hostPath": "/data/${device.name}", "mountPath": "/data"}],
		 "devices": [{"path": "${device.annotations['plc/tty']}", "mountPath": "/dev/plc"}],
		 "labels": {"site": "${device.labels.site}"}, "annotations": {"example.com/site": "${device.labels.site}"},
		 "livenessProbe": {"exec": {"command": ["check", "${device.name}"]}},
		 "readinessProbe": {"httpGet": {"path": "/${device.name}", "port": 80, "httpHeaders": [{"name": "Host", "value": "${device.name}"}]}}}
	]}`

var plant = map[string]string{
	"device.name": "edge-1", "device.labels.site": `a"b${device.name}`, "device.inventory.arch": "arm64", "device.annotations.plc": "10.0.0.5", "device.annotations.home": "/home",
	"device.annotations.a": "10.0.0.1", "device.annotations.b": "10.0.0.2", "device.annotations['plc/tty']": "/dev/ttyUSB0",
}

func valuesOf(values map[string]string) template.Values {
	return func(s template.Source) (string, bool) {
		value, has := values[s.String()]
		return value, has
	}
}

func parsed(t testing.TB, data string) *score.Document {
	t.Helper()
	d, err := score.Parse(score.TypePodmanV0, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// with replaces values of the plant.
func with(changes ...string) map[string]string {
	values := map[string]string{}
	for key, value := range plant {
		values[key] = value
	}
	for i := 0; i < len(changes); i += 2 {
		values[changes[i]] = changes[i+1]
	}
	return values
}

func TestTemplateIsRendered(t *testing.T) {
	t.Parallel()
	d := parsed(t, everywhere)
	needs, err := d.Validate()
	if err != nil || needs.Privilege != score.Privileged {
		t.Fatalf("needs %+v, %v", needs, err)
	}
	before, _ := d.Canonical()
	tmpl := d.Template()
	rendered, err := tmpl.Render(valuesOf(plant))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rendered.Validate(); err != nil {
		t.Fatal(err)
	}
	body, err := rendered.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"run","--site=a\"b${device.name}"`, `"args":["a\"b${device.name}","${device.name}","echo ${HOME}"]`, `"args":["edge-1"]`, `"value":"arm64"`, `"ip":"10.0.0.5"`, `"nameservers":["1.1.1.1"]`,
		`"hostIP":"10.0.0.1"`, `"hostPath":"/data/edge-1"`, `"path":"/dev/ttyUSB0"`, `"path":"/edge-1"`, `"command":["check","edge-1"]`, `"workingDir":"/home"`,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	if after, _ := d.Canonical(); string(after) != string(before) {
		t.Error("rendering changed the template")
	}
	if rendered.Template() != nil {
		t.Error("what was rendered is a template again")
	}
	var names []string
	for _, s := range tmpl.Sources() {
		names = append(names, s.String())
	}
	want := []string{"device.annotations.a", "device.annotations.b", "device.annotations.dns", "device.annotations.home", "device.annotations.plc", "device.annotations['plc/tty']", "device.inventory.arch", "device.labels.site", "device.name"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
}

// A score without expressions keeps its hash: agents have it.
func TestScoreWithoutExpressionsIsAsBefore(t *testing.T) {
	t.Parallel()
	d := parsed(t, `{"services":[{"name":"web","image":"localhost/a:1","args":["sh","-c","echo ${HOME} $${HOME} ${device} ${device:-x} ${a[0]} $$ {x.y}"],"env":[{"name":"A","value":"$5"}]}]}`)
	if _, err := d.Validate(); err != nil || d.Template() != nil {
		t.Fatalf("%v, a template: %v", err, d.Template() != nil)
	}
	body, err := d.Canonical()
	const golden = "78a781a04d5a72572e0d1f8757aaea4593134981ea61e0a2069f231b6f37c216"
	if got := score.Hash(body); err != nil || got != golden {
		t.Errorf("hash %s, %v, want %s", got, err, golden)
	}
}

func TestMistakesInExpressionsAreAllNamed(t *testing.T) {
	t.Parallel()
	_, err := parsed(t, `{"services":[{"name":"${device.name}","image":"localhost/${device.labels.image}:1","args":["ok","${device.lables.x}"],"env":[{"name":"A","value":"${spring.port}"}],
		"volumes":[{"name":"data","mountPath":"/data/${device.name}"}],"hostname":"a b","workingDir":"${device.name","stopSignal":"${device.name}"}]}`).Validate()
	var all score.FieldErrors
	if !errors.As(err, &all) {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range all {
		if got[e.Field] != "" {
			t.Errorf("%s is named twice", e.Field)
		}
		got[e.Field] = e.Message
	}
	for field, want := range map[string]string{
		"services[0].name": "an expression may not be here", "services[0].image": "may not be here", "services[0].args[1]": "device.lables is unknown",
		"services[0].env[0].value": "spring is unknown", "services[0].volumes[0].mountPath": "may not be here", "services[0].hostname": "must be at most",
		"services[0].workingDir": "} is missing", "services[0].stopSignal": "may not be here",
	} {
		if !strings.Contains(got[field], want) {
			t.Errorf("%s: %q, want %q", field, got[field], want)
		}
		delete(got, field)
	}
	if len(got) > 0 {
		t.Errorf("besides: %v", got)
	}
}

// What a device says of itself is checked as if it stood in the score.
func TestRenderedScoreIsValidatedAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		values map[string]string
		want   string
	}{
		"control":      {plant, ""},
		"traversal":    {with("device.name", "../../etc"), `services[0].volumes[0].hostPath: "/data/../../etc" is not an absolute path`},
		"an option":    {with("device.name", "a:rw"), `hostPath: "/data/a:rw" is not an absolute path`},
		"no address":   {with("device.annotations.plc", "plc"), `network.hostAliases[0].ip: "plc" is not an IP address`},
		"no device":    {with("device.annotations['plc/tty']", "/etc/shadow"), `"/etc/shadow" is not below /dev`},
		"two as one":   {with("device.annotations.b", "10.0.0.1"), "8080 is already taken"},
		"two as all":   {with("device.annotations.b", "0.0.0.0"), "8080 is already taken"},
		"not absolute": {with("device.annotations.home", "home"), "workingDir"},
		"a header":     {with("device.name", "a\r\nSet-Cookie: b"), "has a control character"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rendered, err := parsed(t, everywhere).Template().Render(valuesOf(c.values))
			if err == nil {
				_, err = rendered.Validate()
			}
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, score.ErrInvalid)):
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestMissingLabelNamesFieldAndLabel(t *testing.T) {
	t.Parallel()
	values := with()
	delete(values, "device.annotations.plc")
	_, err := parsed(t, everywhere).Template().Render(valuesOf(values))
	want := "data.network.hostAliases[0].ip: this device has no device.annotations.plc, and the score gives no default"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// A small score cannot make a large one of a large value.
func TestRenderedScoreIsBounded(t *testing.T) {
	t.Parallel()
	arg := strings.Repeat("${device.labels.a}", 1000)
	d := parsed(t, `{"services":[{"name":"web","image":"localhost/a:1","args":["`+arg+`"]}]}`)
	if _, err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	_, err := d.Template().Render(func(template.Source) (string, bool) { return strings.Repeat("a", template.MaxValue), true })
	if err == nil || !strings.Contains(err.Error(), "bytes with the values of this device") {
		t.Error(err)
	}
}

// FuzzTemplate: what one device is given is text in its place, and changes nothing else.
func FuzzTemplate(f *testing.F) {
	f.Add("a", "b")
	f.Add(`","command":["`, "${device.name}")
	f.Fuzz(func(t *testing.T, site, name string) {
		tmpl := parsed(t, everywhere).Template()
		rendered, err := tmpl.Render(valuesOf(with("device.labels.site", site, "device.name", name)))
		if err != nil {
			return
		}
		needs, err := rendered.Validate()
		if err != nil {
			return
		}
		if needs.Privilege != score.Privileged || len(needs.Demands) != 2 || len(needs.Secrets)+len(needs.ConfigMaps) > 0 {
			t.Fatalf("with %q and %q the score needs %+v", site, name, needs)
		}
		if body, err := rendered.Canonical(); err == nil {
			if again, err := score.Canonical(score.TypePodmanV0, []byte(dataOf(t, body))); err != nil || string(again) != string(body) {
				t.Fatalf("the rendered body is another one when it is read: %v", err)
			}
		}
	})
}

// dataOf takes the data out of a body.
func dataOf(t *testing.T, body []byte) string {
	t.Helper()
	var b struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &b); err != nil {
		t.Fatal(err)
	}
	return string(b.Data)
}
