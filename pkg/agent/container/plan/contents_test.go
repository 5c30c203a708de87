package plan_test

import (
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// mark names contents as an agent does, but without a key.
func mark(content []byte) string { return wire.Sum(content).String() }

// A container that an agent up to 0.1 made, whose hash changed with each digest, is kept as it
// is until its Secrets change.
func TestAnUpgradeReplacesNothing(t *testing.T) {
	t.Parallel()
	objects := map[string]map[string][]byte{"db": {"password": []byte("p")}, "tls": {"crt": []byte("c")}}
	w, err := withSecrets().WithSecrets(workload.Contents{Digest: "1", Objects: objects, Mark: mark})
	if err != nil {
		t.Fatal(err)
	}
	old := running(service("a", "localhost/a"))
	old.Hash = wire.Sum([]byte(withSecrets().Services[0].Hash + "1")).String()
	observed := []container.Container{old, running(service("b", "localhost/b"))}
	if got := steps(plan.Inherit(w, observed), observed); len(got) > 0 {
		t.Errorf("after the upgrade: %q", got)
	}
	if got := steps(w, observed); len(got) == 0 {
		t.Error("the control is not replaced")
	}
}

// A service changes with what it uses, and with nothing else.
func TestOnlyWhatIsUsedCounts(t *testing.T) {
	t.Parallel()
	hashOf := func(digest, used, unused string) string {
		w, err := withSecrets().WithSecrets(workload.Contents{Digest: digest, Mark: mark, Objects: map[string]map[string][]byte{
			"db": {"password": []byte(used), "other": []byte(unused)}, "tls": {"crt": []byte("c")},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return w.Services[0].Hash
	}
	if hashOf("1", "a", "b") != hashOf("2", "a", "c") {
		t.Error("the hash changes with a key that the service does not use")
	}
	if hashOf("1", "a", "b") == hashOf("2", "b", "b") {
		t.Error("the hash does not change with a key that the service uses")
	}
}

func TestVariablesOfWholeObjects(t *testing.T) {
	t.Parallel()
	w := withSecrets()
	config := wire.ConfigMapName("conf")
	w.Services[0].Env = map[string]string{"P_FIXED": "own"}
	w.SecretUses = map[string]plan.SecretUse{"a": {From: []plan.EnvFrom{{Object: config, Prefix: "P_"}, {Object: "db", Prefix: "P_"}}}}
	contents := workload.Contents{Digest: "1", Mark: mark, Objects: map[string]map[string][]byte{
		config: {"A": []byte("1"), "B": []byte("2"), "FIXED": []byte("x")}, "db": {"B": []byte("secret")},
	}}
	got, err := w.WithSecrets(contents)
	if err != nil {
		t.Fatal(err)
	}
	s := got.Services[0]
	if s.Env["P_A"] != "1" || s.Env["P_FIXED"] != "own" || s.Env["P_B"] != "" || string(s.Secrets[s.SecretEnv["P_B"]]) != "secret" {
		t.Errorf("variables are %v and %v", s.Env, s.SecretEnv)
	}
	contents.Objects[config]["1"] = nil
	w.SecretUses = map[string]plan.SecretUse{"a": {From: []plan.EnvFrom{{Object: config}}}}
	const want = `service a: envFrom: key "1" of the ConfigMap "conf" makes "1", which is no name of an environment variable: rename it, or set a prefix`
	if _, err := w.WithSecrets(contents); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLogins(t *testing.T) {
	t.Parallel()
	const config = `{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnB3"},"reg.example.com":{"username":"all","password":"p:q"},"reg.example.com:5000/team":{"username":"team","password":"t"},"reg.example.com:5000":{"auth":"aG9zdDpo"}}}`
	w := &plan.Workload{Ref: ref, PullSecrets: []string{"login"}}
	contents := func(text string) workload.Contents {
		return workload.Contents{Objects: map[string]map[string][]byte{"login": {".dockerconfigjson": []byte(text)}}}
	}
	got, err := w.WithSecrets(contents(config))
	if err != nil {
		t.Fatal(err)
	}
	for image, user := range map[string]string{
		"docker.io/library/nginx:1": "hub", "reg.example.com/a:1": "all", "reg.example.com:5000/team/a": "team", "reg.example.com:5000/teams/a": "host", "other.example.com/a": "",
	} {
		login := got.LoginFor(image)
		if (login == nil) != (user == "") || login != nil && login.User != user {
			t.Errorf("%s: %+v, want %s", image, login, user)
		}
	}
	for _, bad := range []string{"s3cret", `{"auths":{"a":{"auth":"s3cret"}}}`} {
		if _, err := w.WithSecrets(contents(bad)); err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), `the Secret "login"`) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
