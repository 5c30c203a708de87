package podman_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

// account is a podman without containers of its own: what it says is up to the test, and so
// is what the kernel says.
type account struct {
	*podman.Client

	t      *testing.T
	groups string // where the kernel shows those of containers

	mu sync.Mutex // guards what follows
	// states are those of containers by id.
	states map[string]string
	// asked counts questions by the end of their path.
	asked map[string]int
	// ends is how long podman goes on, which end ends.
	ends context.Context
	end  context.CancelFunc
	// impatient: podman does not wait for the body of a request.
	impatient bool
}

var first, second = strings.Repeat("a1", 32), strings.Repeat("b2", 32)

func newAccount(t *testing.T) *account {
	t.Helper()
	a := &account{t: t, states: map[string]string{}, asked: map[string]int{}}
	a.ends, a.end = context.WithCancel(context.Background())
	t.Cleanup(a.end)
	a.Client = impostor(t, a.answer)
	root := t.TempDir()
	manager := ""
	if uid := os.Geteuid(); uid != 0 {
		manager = fmt.Sprintf("user.slice/user-%d.slice/user@%[1]d.service", uid)
	}
	a.groups = filepath.Join(root, manager, "user.slice")
	if manager == "" {
		a.groups = filepath.Join(root, "machine.slice")
	}
	a.mkdir(a.groups)
	a.write(filepath.Join(root, "cgroup.controllers"), "memory pids\n")
	a.SetGroups(root)
	return a
}

func (a *account) mkdir(path string) {
	a.t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		a.t.Fatal(err)
	}
}

func (a *account) write(path, text string) {
	a.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *account) answer(w http.ResponseWriter, r *http.Request) {
	_, question, _ := strings.Cut(r.URL.Path, "/libpod")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[question[strings.LastIndex(question, "/")+1:]]++
	switch {
	case r.URL.Path == "/auth":
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			a.t.Error(err)
			return
		}
		if a.impatient {
			fmt.Fprint(conn, "HTTP/1.1 404 Not Found\r\n\r\n")
		}
		context.AfterFunc(a.ends, func() { conn.Close() })
	case question == "/events":
		w.(http.Flusher).Flush()
		a.mu.Unlock()
		<-r.Context().Done()
		a.mu.Lock()
	case question == "/containers/json":
		var list []string
		for id := range a.states {
			list = append(list, fmt.Sprintf(`{"Id":%q}`, id))
		}
		fmt.Fprintf(w, "[%s]", strings.Join(list, ","))
	case strings.HasPrefix(question, "/containers/") && strings.HasSuffix(question, "/json"):
		id := strings.Split(question, "/")[2]
		fmt.Fprintf(w, `{"Id":%q,"Name":%q,"Config":{"Labels":{%q:"shop_web"}},"HostConfig":{"Cgroups":"default"},"State":{"Status":%q,"CgroupPath":%q}}`,
			id, id, container.LabelDeployment, a.states[id], "/"+a.relative(a.scope(id))+"/container")
	}
}

func (a *account) relative(path string) string {
	root, _, _ := strings.Cut(path, "/user.slice")
	root, _, _ = strings.Cut(root, "/machine.slice")
	return strings.TrimPrefix(path, root+"/")
}

func (a *account) scope(id string) string { return filepath.Join(a.groups, "libpod-"+id+".scope") }

func (a *account) monitor(id string) string {
	return filepath.Join(a.groups, "libpod-conmon-"+id+".scope")
}

// says has podman say something of a container.
func (a *account) says(id, state string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.states[id] = state
}

// runs has the kernel show a container that runs.
func (a *account) runs(id string) {
	a.t.Helper()
	a.says(id, "running")
	for _, group := range []string{a.monitor(id), a.scope(id)} {
		a.mkdir(group)
		a.write(filepath.Join(group, "cgroup.events"), "populated 1\nfrozen 0\n")
	}
}

// ended has the kernel show that a container has no process.
func (a *account) ended(id string) {
	a.t.Helper()
	a.write(filepath.Join(a.scope(id), "cgroup.events"), "populated 0\nfrozen 0\n")
}

// asks is how often podman was asked something.
func (a *account) asks(what string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[what]
}

// watched watches until the test ends, and tells of changes.
func (a *account) watched() (changes chan wire.DeploymentRef, ended chan error) {
	a.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	changes, ended = make(chan wire.DeploymentRef, 100), make(chan error, 1)
	ready, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ended <- a.Watch(ctx, func() { close(ready) }, func(ref wire.DeploymentRef) { changes <- ref })
	}()
	a.t.Cleanup(func() { cancel(); <-done })
	select {
	case <-ready:
	case err := <-ended:
		a.t.Fatal(err)
	}
	return changes, ended
}

// look looks at all containers.
func (a *account) look() []container.Container {
	a.t.Helper()
	list, err := a.List(a.t.Context(), wire.DeploymentRef{})
	if err != nil {
		a.t.Fatal(err)
	}
	return list
}

func (a *account) told(changes chan wire.DeploymentRef, what string) {
	a.t.Helper()
	select {
	case ref := <-changes:
		if want := (wire.DeploymentRef{Namespace: "shop", Name: "web"}); ref != want {
			a.t.Errorf("%s: told of %v", what, ref)
		}
	case <-time.After(20 * time.Second):
		a.t.Fatalf("%s: nobody was told", what)
	}
	for len(changes) > 0 {
		<-changes
	}
}

// What happens to containers is seen in their control groups, and not asked of podman.
func TestControlGroupsTellOfContainers(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.runs(first)
	changes, ended := a.watched()
	a.look()
	a.ended(first)
	a.told(changes, "its processes ended")
	a.runs(second)
	a.told(changes, "another one began")
	a.look()
	if err := os.RemoveAll(a.monitor(second)); err != nil {
		t.Fatal(err)
	}
	a.told(changes, "its monitor ended")
	if err := os.Remove(a.groups); err == nil {
		t.Error("the account has no containers: this test shows nothing")
	}
	if n := a.asks("events"); n != 0 {
		t.Errorf("podman was asked for events %d times", n)
	}
	a.end()
	if err := <-ended; err == nil || errors.Is(err, container.ErrUnavailable) {
		t.Errorf("podman ended: %v", err)
	}
	ended <- nil
}

// A pod is a slice among the containers, in which others lie.
func TestControlGroupsTellOfPods(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	changes, _ := a.watched()
	all := a.groups
	a.groups = filepath.Join(all, "user-libpod_pod_"+second+".slice")
	a.says(first, "running")
	a.mkdir(a.scope(first))
	a.told(changes, "a container of a pod began")
}

// What podman said is repeated for as long as the kernel says the same: never that something
// runs which does not.
func TestLooksAreRememberedWhileTheyAreTrue(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.runs(first)
	a.says(second, "exited")
	a.look()
	a.look()
	if n := a.asks("json"); n != 2*3 {
		t.Fatalf("without a watch podman was asked %d times", n)
	}
	changes, _ := a.watched()
	asks := func(what string, news bool) {
		t.Helper()
		before := a.asks("json")
		if n := len(a.look()); n != 2 {
			t.Errorf("%s: %d containers", what, n)
		}
		if asked := a.asks("json") > before; asked != news {
			t.Errorf("%s: asked podman: %t", what, asked)
		}
	}
	asks("the first look", true)
	asks("nothing happened", false)
	if list, err := a.List(t.Context(), wire.DeploymentRef{Namespace: "shop", Name: "web"}); err != nil || len(list) != 2 {
		t.Errorf("of a Deployment: %v, %v", list, err)
	}
	if list, err := a.List(t.Context(), wire.DeploymentRef{Namespace: "shop", Name: "other"}); err != nil || len(list) != 0 {
		t.Errorf("of another Deployment: %v, %v", list, err)
	}
	if err := a.Stop(t.Context(), second, 0); err != nil {
		t.Fatal(err)
	}
	asks("the agent did something", true)
	asks("it is as it was", false)
	a.Age(5 * time.Minute)
	asks("after a while", true)
	a.mkdir(a.scope(second))
	a.told(changes, "what had ended began")
	asks("somebody started one", true)
	a.says(first, "stopping")
	a.Age(5 * time.Minute)
	asks("after a while", true)
	asks("a state that passes", true)
	a.says(first, "running")
	asks("it passed", true)
	asks("it is as it was", false)
	a.ended(first)
	a.says(first, "exited") // and nobody was told yet
	for _, c := range a.look() {
		if c.ID == first && c.State == container.StateRunning {
			t.Error("a container that ended is said to run")
		}
	}
}

// A podman that does not wait for requests is asked for events.
func TestWithoutAHoldPodmansEventsAreUsed(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.impatient = true
	if err := <-must(a.watched()); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
	a.watched()
	if err := wait.Until(t.Context(), 10*time.Second, time.Millisecond, func() error {
		if a.asks("events") == 0 {
			return errors.New("podman was not asked for events")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func must(_ chan wire.DeploymentRef, ended chan error) chan error { return ended }
