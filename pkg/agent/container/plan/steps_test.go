package plan_test

import (
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// steps are what a plan does, each in a few words.
func steps(w *plan.Workload, observed []container.Container) []string {
	var said []string
	actions, _ := plan.Changes(w, observed, now)
	for _, a := range actions {
		what := a.Image + a.Volume + a.Secret + a.Container.Service
		if a.Spec != nil {
			what += a.Spec.Service
		}
		said = append(said, a.Kind.String()+" "+what)
	}
	return said
}

func service(name, image string) container.Spec {
	return container.Spec{Ref: ref, Service: name, Image: image, Hash: name, Restart: container.RestartAlways}
}

func running(s container.Spec) container.Container {
	return container.Container{ID: s.Service, Name: s.Name(), Ref: ref, Service: s.Service, Hash: s.Hash, State: container.StateRunning, Started: now}
}

// A volume is looked at when a container is made, and at no other time: podman is
// asked nothing while all is as it should be.
func TestVolumesAreEnsuredForNewContainers(t *testing.T) {
	t.Parallel()
	a, b := service("a", "localhost/a"), service("b", "localhost/b")
	w := &plan.Workload{Ref: ref, Services: []container.Spec{a, b}, Volumes: []string{"shop_web_data"}}
	if got := steps(w, []container.Container{running(a), running(b)}); got != nil {
		t.Errorf("all is there: %q", got)
	}
	want := []string{"pull localhost/b", "ensure volume shop_web_data", "create b"}
	if diff := gocmp.Diff(want, steps(w, []container.Container{running(a)})); diff != "" {
		t.Errorf("one is missing (-want +got):\n%s", diff)
	}
}

// Services of one image pull it once; those of several pull each.
func TestAnImageIsPulledOnce(t *testing.T) {
	t.Parallel()
	w := &plan.Workload{Ref: ref, Services: []container.Spec{service("a", "localhost/a"), service("b", "localhost/a"), service("c", "localhost/c")}}
	want := []string{"pull localhost/a", "pull localhost/c", "create a", "create b", "create c"}
	if diff := gocmp.Diff(want, steps(w, nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// withSecrets is a workload whose service a uses two Secrets, and b none.
func withSecrets() *plan.Workload {
	return &plan.Workload{
		Ref: ref, Services: []container.Spec{service("a", "localhost/a"), service("b", "localhost/b")},
		SecretUses: map[string]plan.SecretUse{"a": {
			Env:  map[string]plan.SecretKey{"PASSWORD": {Secret: "db", Key: "password"}},
			Dirs: map[string]string{"/etc/tls": "tls"},
		}},
	}
}

func TestSecretsOfAWorkload(t *testing.T) {
	t.Parallel()
	if diff := gocmp.Diff([]string{"db", "tls"}, withSecrets().Secrets()); diff != "" {
		t.Errorf("it needs (-want +got):\n%s", diff)
	}
	if got := (&plan.Workload{Ref: ref}).Secrets(); len(got) != 0 {
		t.Errorf("one without Secrets needs %q", got)
	}
}

// The contents go to the service that uses them, under names that change with
// them, and its hash does, too. Other services, and the workload itself, stay.
func TestContentsOfSecrets(t *testing.T) {
	t.Parallel()
	contents := map[string]map[string][]byte{"db": {"password": []byte("p"), "unused": []byte("u")}, "tls": {"crt": []byte("c"), "key": []byte("k")}}
	w := withSecrets()
	first, err := w.WithSecrets(workload.Contents{Digest: "1", Objects: contents})
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.WithSecrets(workload.Contents{Digest: "2", Objects: contents})
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(withSecrets(), w); diff != "" {
		t.Errorf("the workload changed:\n%s", diff)
	}
	a, again := first.Services[0], second.Services[0]
	if a.Hash == w.Services[0].Hash || a.Hash == again.Hash || len(a.Hash) != 64 {
		t.Errorf("the hashes are %q, %q and %q", w.Services[0].Hash, a.Hash, again.Hash)
	}
	if diff := gocmp.Diff(w.Services[1], first.Services[1]); diff != "" {
		t.Errorf("a service without Secrets changed:\n%s", diff)
	}
	got := map[string]string{}
	for use, object := range a.SecretEnv {
		got[use] = string(a.Secrets[object])
	}
	for path, object := range a.SecretFiles {
		got[path] = string(a.Secrets[object])
	}
	if diff := gocmp.Diff(map[string]string{"PASSWORD": "p", "/etc/tls/crt": "c", "/etc/tls/key": "k"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(a.Secrets) != 3 {
		t.Errorf("%d objects, want one for each key that is used", len(a.Secrets))
	}
	for object := range a.Secrets {
		if _, same := again.Secrets[object]; same || !strings.HasPrefix(object, "shop_web_") || len(object) != len("shop_web_")+16 {
			t.Errorf("object %s, which has to be the Deployment's and new with each content", object)
		}
	}
	want := []string{"pull localhost/a", "pull localhost/b", "create a", "create b"}
	var rest []string
	for _, step := range steps(first, nil) {
		if !strings.HasPrefix(step, "ensure secret shop_web_") {
			rest = append(rest, step)
		}
	}
	if diff := gocmp.Diff(want, rest); diff != "" || len(steps(first, nil)) != len(want)+3 {
		t.Errorf("the steps are %q", steps(first, nil))
	}
}

func TestMissingKeyOfASecret(t *testing.T) {
	t.Parallel()
	_, err := withSecrets().WithSecrets(workload.Contents{Digest: "1", Objects: map[string]map[string][]byte{"db": {"user": nil}, "tls": {}}})
	if err == nil || err.Error() != `service a: the Secret "db" has no key "password"` {
		t.Errorf("got %v", err)
	}
}

// Nothing is no secret, and podman keeps none of it.
func TestEmptySecrets(t *testing.T) {
	t.Parallel()
	w, err := withSecrets().WithSecrets(workload.Contents{Digest: "1", Objects: map[string]map[string][]byte{"db": {"password": {}}, "tls": {"crt": []byte("c")}}})
	if err != nil {
		t.Fatal(err)
	}
	s := w.Services[0]
	if value, there := s.Env["PASSWORD"]; !there || value != "" || len(s.SecretEnv) > 0 {
		t.Errorf("an empty key becomes %q (%t), and secrets %v", value, there, s.SecretEnv)
	}
	if before := withSecrets().Services[0].Env; len(before) > 0 {
		t.Errorf("the workload changed: %v", before)
	}
	_, err = withSecrets().WithSecrets(workload.Contents{Digest: "1", Objects: map[string]map[string][]byte{"db": {"password": []byte("p")}, "tls": {"crt": {}}}})
	if want := `service a: key "crt" of the Secret "tls" is empty, and podman cannot make a file of it: give it a content, or remove the key`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Containers whose score is not on the device any more run, or are on their way.
func TestStateWithoutAScore(t *testing.T) {
	t.Parallel()
	up := running(service("a", "localhost/a"))
	down := up
	down.State, down.Finished = container.StateExited, now
	for want, observed := range map[wire.Phase][]container.Container{
		wire.PhaseRunning: {down, up},
		wire.PhasePending: {down},
	} {
		if got := plan.State(nil, observed, now); got.Phase != want {
			t.Errorf("%d containers: %s, want %s", len(observed), got.Phase, want)
		}
	}
}

// What a container did last decides, and not how long ago it began.
func TestVerdictsOnContainers(t *testing.T) {
	t.Parallel()
	started := func(change func(*container.Container)) container.Container {
		c := running(service("a", "localhost/a"))
		c.Started = now.Add(-time.Second)
		change(&c)
		return c
	}
	ended := func(code int) func(*container.Container) {
		return func(c *container.Container) {
			c.State, c.ExitCode, c.OutOfMemory, c.Finished = container.StateExited, code, true, now
		}
	}
	for name, tt := range map[string]struct {
		c     container.Container
		phase wire.Phase
		text  string
	}{
		"new":                           {started(func(*container.Container) {}), wire.PhaseRunning, ""},
		"a process of it had no memory": {started(ended(0)), wire.PhaseRunning, ""},
		"it had no memory":              {started(ended(137)), wire.PhaseFailed, "service a: was killed, since it needed more memory than its limit or the device has"},
	} {
		w := &plan.Workload{Ref: ref, Services: []container.Spec{{Ref: ref, Service: "a", Hash: "a", Restart: container.RestartNever}}}
		got := plan.State(w, []container.Container{tt.c}, now)
		if got.Phase != tt.phase || got.Error != tt.text || !got.Again.IsZero() {
			t.Errorf("%s: %s %q, again %v", name, got.Phase, got.Error, got.Again)
		}
	}
}

// The Deployment that runs has its port, in whatever order a map gives them.
func TestWhoRunsKeepsItsPort(t *testing.T) {
	t.Parallel()
	first, last := wire.DeploymentRef{Namespace: "a", Name: "a"}, wire.DeploymentRef{Namespace: "b", Name: "b"}
	claim := func(running bool) plan.Claim {
		s := service("a", "localhost/a")
		s.Ports = []container.Port{{Host: 80, Inside: 80, Protocol: container.TCP}}
		return plan.Claim{Workload: &plan.Workload{Services: []container.Spec{s}}, Running: running}
	}
	for range 100 {
		got := plan.Conflicts(map[wire.DeploymentRef]plan.Claim{first: claim(false), last: claim(true)})
		if len(got) != 1 || got[first] == nil || got[first].Owner != last {
			t.Fatalf("the conflicts are %v", got)
		}
	}
}
