package acceptance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/controllers/secrets"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	plain = `{"services":[{"name":"web","image":"localhost/web:1"}]}`
	bind  = `{"services":[{"name":"web","image":"localhost/web:1","volumes":[{"hostPath":"/srv","mountPath":"/srv"}]}]}`
)

// none: no operator decided anything.
var none acceptance.Rules

// secretsOf are the Secrets that there are.
type secretsOf map[string]string

func (s secretsOf) Digest(_ string, names []string) (string, error) {
	if len(names) == 0 {
		return "", nil
	}
	content := ""
	for _, name := range names {
		if s[name] == "" {
			return "", fmt.Errorf("Secret %q: %w", name, secrets.ErrMissing)
		}
		content += s[name]
	}
	return wire.Sum([]byte(content)).String(), nil
}

func deployment(typ, data string) *v1alpha1.Deployment {
	return &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"group": "a"}},
			Score:          v1alpha1.Score{Type: typ, Data: runtime.RawExtension{Raw: []byte(data)}},
		},
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	others := acceptance.Rules{Types: []string{"PodmanV9"}}
	privilege := func(value string) map[string]string { return map[string]string{v1alpha1.LabelPrivilege: value} }
	for name, tc := range map[string]struct {
		typ, data string
		namespace map[string]string
		accepted  bool
		reason    string
		says      string
	}{
		"valid":                          {"PodmanV0", plain, nil, true, v1alpha1.ReasonValid, "valid"},
		"valid, restricted":              {"PodmanV0", plain, privilege("restricted"), true, v1alpha1.ReasonValid, ""},
		"an unknown field":               {"PodmanV0", `{"services":[{"name":"web","image":"localhost/web:1","imagePolicy":"x"}]}`, nil, false, v1alpha1.ReasonInvalid, "spec.score.data.services[0].imagePolicy"},
		"no services":                    {"PodmanV0", `{}`, nil, false, v1alpha1.ReasonInvalid, "services"},
		"no document":                    {"PodmanV0", `{`, nil, false, v1alpha1.ReasonInvalid, "spec.score."},
		"nothing at all":                 {"PodmanV0", ``, nil, false, v1alpha1.ReasonInvalid, "spec.score."},
		"too long":                       {"PodmanV0", `{"services":[{"name":"web","image":"localhost/web:1","args":["` + strings.Repeat("x", wire.MaxScoreSize) + `"]}]}`, nil, false, v1alpha1.ReasonInvalid, "spec.score."},
		"a type of the future":           {"PodmanV9", `{"anything":1}`, privilege("privileged"), true, v1alpha1.ReasonUnknownType, "PodmanV9 and sends it unread"},
		"the same, baseline":             {"PodmanV9", `{"anything":1}`, nil, false, v1alpha1.ReasonPrivilegeExceeded, "spec.score.type: PodmanV9, which this server cannot read, needs privilege privileged, but namespace shop allows baseline"},
		"a type in another case":         {"podmanv0", `{"anything":1}`, privilege("privileged"), false, v1alpha1.ReasonUnknownType, "spec.score.type: podmanv0 is no type that this server knows: use FilesV0, PodmanV0; for a type of an interpreter on devices, list it in scoreTypes"},
		"files":                          {"FilesV0", `{"files":[{"path":"/srv/a","content":""}]}`, privilege("privileged"), true, v1alpha1.ReasonValid, ""},
		"files, baseline":                {"FilesV0", `{"files":[{"path":"/srv/a","content":""}]}`, nil, false, v1alpha1.ReasonPrivilegeExceeded, "spec.score.data.files[0].path needs privilege privileged"},
		"files of a Secret":              {"FilesV0", `{"files":[{"path":"/srv/a","secretKeyRef":{"name":"s","key":"k"}}]}`, privilege("privileged"), false, v1alpha1.ReasonSecretUnavailable, `Secret "s"`},
		"a type of the future, too long": {"PodmanV9", `"` + strings.Repeat("x", wire.MaxScoreSize) + `"`, nil, false, v1alpha1.ReasonInvalid, "spec.score."},
		"bind, no label":                 {"PodmanV0", bind, nil, false, v1alpha1.ReasonPrivilegeExceeded, v1alpha1.LabelPrivilege},
		"bind, baseline":                 {"PodmanV0", bind, privilege("baseline"), false, v1alpha1.ReasonPrivilegeExceeded, "baseline"},
		"bind, restricted":               {"PodmanV0", bind, privilege("restricted"), false, v1alpha1.ReasonPrivilegeExceeded, "restricted"},
		"bind, privileged":               {"PodmanV0", bind, privilege("privileged"), true, v1alpha1.ReasonValid, ""},
		// What is wrong does not hide what the namespace does not allow.
		"bind, and a mistake":             {"PodmanV0", strings.Replace(bind, `:1",`, `:1","restart":"Sometimes",`, 1), nil, false, v1alpha1.ReasonInvalid, `Never; spec.score.data.services[0].volumes[0].hostPath needs privilege privileged, but namespace shop allows baseline`},
		"bind, and a mistake, privileged": {"PodmanV0", strings.Replace(bind, `:1",`, `:1","restart":"Sometimes",`, 1), privilege("privileged"), false, v1alpha1.ReasonInvalid, "or Never"},
		// A value that nobody can read opens nothing.
		"bind, a misspelt label": {"PodmanV0", bind, privilege("Privileged"), false, v1alpha1.ReasonPrivilegeExceeded, "restricted"},
		"bind, an odd label":     {"PodmanV0", bind, privilege("all"), false, v1alpha1.ReasonPrivilegeExceeded, "restricted"},
		"plain, an odd label":    {"PodmanV0", plain, privilege("all"), true, v1alpha1.ReasonValid, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := others.Evaluate(deployment(tc.typ, tc.data), tc.namespace, secretsOf{})
			if v.Accepted != tc.accepted || v.Reason != tc.reason || !strings.Contains(v.Message, tc.says) {
				t.Fatalf("verdict is %v %s %q, want %v %s that says %q", v.Accepted, v.Reason, v.Message, tc.accepted, tc.reason, tc.says)
			}
			if !v.Selector.Matches(labels.Set{"group": "a"}) || v.Selector.Matches(labels.Set{"group": "b"}) {
				t.Errorf("selector is %s: devices must keep what they run", v.Selector)
			}
			if !v.Accepted {
				return
			}
			if err := v.Entry.Validate(); err != nil || v.Entry.Size != len(v.Body) || v.Entry.Hash != score.Hash(v.Body) {
				t.Errorf("entry %+v of a body of %d bytes: %v", v.Entry, len(v.Body), err)
			}
		})
	}
}

// What is wrong with a score and what its namespace does not allow are refused together, as far
// as the score can be read: what only a correct value would tell is not claimed.
func TestRefusalsNameMistakesAndPrivilegeTogether(t *testing.T) {
	t.Parallel()
	const (
		tooMuch = "needs privilege privileged, but the namespace allows baseline: to allow it, kubectl label namespace shop " + v1alpha1.LabelPrivilege + "=privileged"
		service = "spec.score.data.services[0]."
	)
	web := func(fields string) string {
		return `{"services":[{"name":"web","image":"localhost/web:1",` + fields + `}]}`
	}
	for name, tc := range map[string]struct {
		typ, data string
		want      []acceptance.Refusal
	}{
		"a mistake beside": {"PodmanV0", web(`"hostPID":true,"imgae":"x","volumes":[{"hostPath":"/srv","mountPath":"/srv"}],"ports":[{"hostPort":80,"containerPort":0}]`), []acceptance.Refusal{
			{service + "imgae", "unknown field; did you mean image?"}, {service + "ports[0].containerPort", "0 is not within 1 to 65535"},
			{service + "volumes[0].hostPath", tooMuch}, {service + "hostPID", tooMuch},
		}},
		"in the field itself": {"PodmanV0", web(`"volumes":[{"hostPath":"srv","mountPath":"/srv"}]`), []acceptance.Refusal{
			{service + "volumes[0].hostPath", `"srv" is not an absolute path in its shortest form`}, {service + "volumes[0].hostPath", tooMuch},
		}},
		"of another kind": {"PodmanV0", web(`"hostPID":"yes"`), []acceptance.Refusal{{service + "hostPID", "is a string, true or false is needed"}}},
		"values that say nothing": {"PodmanV0", web(`"securityContext":{"capabilities":{"add":["CAP_CHOWN"]},"sysctls":[{"name":"kernel.panic","value":"1"}],"seLinuxOptions":{"type":"a b"}}`), []acceptance.Refusal{
			{service + "securityContext.capabilities.add[0]", `"CAP_CHOWN": leave CAP_ out, and use capital letters`},
			{service + "securityContext.seLinuxOptions.type", `"a b" is not part of a label`},
			{service + "securityContext.sysctls[0].name", `"kernel.panic" is one of the whole device: a container has its own of net.*, kernel.msg*, kernel.sem, kernel.shm* and fs.mqueue.*`},
		}},
		"a variable twice": {"PodmanV0", web(`"restart":"x","env":[{"name":"A"},{"name":"A"}],"hostIPC":true`), []acceptance.Refusal{
			{service + "restart", `"x" is unknown: use Always, OnFailure or Never`}, {service + "env[1].name", `"A" is given twice`}, {service + "hostIPC", tooMuch},
		}},
		"an expression": {"PodmanV0", web(`"hostname":"${device.name}","devices":[{"path":"/dev/${device.labels.tty}"}]`), []acceptance.Refusal{
			{service + "hostname", "an expression may not be here, see the reference for where: for the text write $${…"}, {service + "devices[0]", tooMuch},
		}},
		"files": {"FilesV0", `{"files":[{"path":"/srv/a","content":"","mode":512}]}`, []acceptance.Refusal{
			{"spec.score.data.files[0].mode", "512 is not within 0 to 511"}, {"spec.score.data.files[0].path", tooMuch},
		}},
		"nothing that can be read": {"PodmanV0", `[]`, []acceptance.Refusal{{"spec.score.data", "is a list, an object is needed"}}},
		"a mistake alone":          {"PodmanV0", web(`"restart":"x"`), []acceptance.Refusal{{service + "restart", `"x" is unknown: use Always, OnFailure or Never`}}},
		"nothing":                  {"PodmanV0", plain, nil},
	} {
		got, err := none.Refusals(v1alpha1.Score{Type: tc.typ, Data: runtime.RawExtension{Raw: []byte(tc.data)}}, func() (map[string]string, error) {
			return map[string]string{"kubernetes.io/metadata.name": "shop"}, nil
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A score that is nothing but mistakes has no refusal for each byte.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	devices := strings.Repeat("{},", 50_000) + "{}"
	got, err := none.Refusals(v1alpha1.Score{Type: "PodmanV0", Data: runtime.RawExtension{Raw: []byte(`{"services":[{"devices":[` + devices + `]}]}`)}}, func() (map[string]string, error) { return nil, nil })
	if err != nil || len(got) > 1000 || !slices.ContainsFunc(got, func(r acceptance.Refusal) bool { return strings.HasPrefix(r.Message, "needs privilege") }) {
		t.Errorf("%d refusals, %v", len(got), err)
	}
}

func TestNamesAndSelectorsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	named := deployment("PodmanV0", plain)
	named.Name = "not.a.label"
	if v := none.Evaluate(named, nil, secretsOf{}); v.Accepted || v.Reason != v1alpha1.ReasonInvalid || !strings.Contains(v.Message, "not.a.label") {
		t.Errorf("a bad name: %+v", v)
	}
	selecting := deployment("PodmanV0", plain)
	selecting.Spec.TargetSelector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "group", Operator: "Near", Values: []string{"a"}}}}
	v := none.Evaluate(selecting, nil, secretsOf{})
	if v.Accepted || v.Reason != v1alpha1.ReasonInvalidSelector || !strings.Contains(v.Message, "spec.targetSelector") {
		t.Errorf("a bad selector: %+v", v)
	}
	if v.Selector.Matches(labels.Set{"group": "a"}) || v.Selector.Matches(labels.Set{}) {
		t.Error("a selector that cannot be read matches")
	}
}

// The same score gives the same hash however it is written, another never does.
func TestHashFollowsTheMeaning(t *testing.T) {
	t.Parallel()
	hash := func(typ, data string) string {
		t.Helper()
		v := acceptance.Rules{Types: []string{"PodmanV9"}}.Evaluate(deployment(typ, data), map[string]string{v1alpha1.LabelPrivilege: "privileged"}, secretsOf{})
		if !v.Accepted {
			t.Fatal(v.Message)
		}
		return v.Entry.Hash
	}
	first := hash("PodmanV0", plain)
	if again := hash("PodmanV0", "{ \"services\" : [ {\"image\":\"localhost/web:1\", \"name\":\"web\"} ] }"); again != first {
		t.Error("spaces and order make another score")
	}
	if hash("PodmanV0", strings.Replace(plain, "web:1", "web:2", 1)) == first {
		t.Error("another image is the same score")
	}
	if hash("PodmanV9", plain) == first {
		t.Error("another type is the same score")
	}
}

func TestVolumeRetentionIsPassedOn(t *testing.T) {
	t.Parallel()
	d := deployment("PodmanV0", plain)
	d.Spec.VolumeRetention = "Delete"
	if v := none.Evaluate(d, nil, secretsOf{}); v.Entry.VolumeRetention != wire.DeleteVolumes {
		t.Errorf("entry is %+v", v.Entry)
	}
}

func TestSecretsAreNeeded(t *testing.T) {
	t.Parallel()
	d := deployment("PodmanV0", `{"services":[{"name":"web","image":"localhost/web:1","volumes":[{"secretName":"tls","mountPath":"/tls"}]}]}`)
	v := none.Evaluate(d, nil, secretsOf{})
	if v.Accepted || v.Reason != v1alpha1.ReasonSecretUnavailable || !strings.Contains(v.Message, `"tls"`) || !strings.Contains(v.Message, "shop") {
		t.Errorf("without the Secret: %+v", v)
	}
	one := none.Evaluate(d, nil, secretsOf{"tls": "one"})
	if !one.Accepted || !slices.Equal(one.Secrets, []string{"tls"}) || one.Entry.Validate() != nil || one.Entry.SecretsDigest == "" {
		t.Errorf("with the Secret: %+v", one)
	}
	other := none.Evaluate(d, nil, secretsOf{"tls": "another"})
	if other.Entry.Hash != one.Entry.Hash || other.Entry.SecretsDigest == one.Entry.SecretsDigest {
		t.Errorf("another content: %+v", other.Entry)
	}
}
