package plugin_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/ops"
	"fleet.nationtech.io/fleet/pkg/plugin"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/golden"
	"fleet.nationtech.io/fleet/test/terminal"
	"fleet.nationtech.io/fleet/test/wait"
)

// server is a running server, and a machine with its kubeconfig.
type server struct {
	machine
	client *client.Client
	kube   kubernetes.Interface
}

func start(t testing.TB) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan embedserver.Ready, 1), make(chan error, 1)
	go func() {
		done <- embedserver.Run(ctx, embedserver.Config{
			DataDir: t.TempDir(), APIListen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", EnrollListen: "127.0.0.1:0",
			Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		}, func(r embedserver.Ready) { ready <- r })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s := &server{}
	select {
	case r := <-ready:
		s.machine = machine{t, r.Kubeconfig}
	case err := <-done:
		done <- err
		t.Fatal("the server ended")
	}
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if s.client, err = client.New(config); err != nil {
		t.Fatal(err)
	}
	if s.kube, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) namespace(name string) {
	s.t.Helper()
	if _, err := s.kube.CoreV1().Namespaces().Create(s.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) deployment(namespace, name string) *v1alpha1.Deployment {
	s.t.Helper()
	d, err := s.client.Deployments(namespace).Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// device makes a Device that never connects.
func (s *server) device(name string, labels map[string]string) {
	s.t.Helper()
	_, err := s.client.Devices().Create(s.t.Context(), &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) eventually(what string, check func() error) {
	s.t.Helper()
	wait.For(s.t, what, 20*time.Second, 10*time.Millisecond, check)
}

const image = "docker.io/library/nginx:1.29"

// TestADryRunIsWhatIsApplied: what is printed, once it is applied from a file, and what
// the command applies are one Deployment.
func TestADryRunIsWhatIsApplied(t *testing.T) {
	s := start(t)
	s.namespace("file")
	s.namespace("run")
	for name, args := range map[string][]string{
		"one":  {"--image", image, "--target-device", "press-7"},
		"many": {"--image", image, "--target-device", "press-7,press-8", "--selector", "site in (a,b),line!=3", "--labels", "team=a"},
		"full": {"--image", image, "--all", "--port", "8080:80", "--port", "53/udp", "--env", "A=${device.name}", "--env", "B=", "--restart", "OnFailure", "--", "-v"},
	} {
		printed := s.run(append([]string{"run", name, "-n", "file", "--dry-run=client", "-o", "yaml"}, args...)...)
		var want v1alpha1.Deployment
		if err := yaml.UnmarshalStrict([]byte(printed), &want); err != nil {
			t.Fatal(err)
		}
		if _, err := s.client.Deployments("file").Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s: a dry run on the client left %v", name, err)
		}
		if _, err := s.client.Deployments("file").Create(t.Context(), &want, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		serverSide := s.run(append([]string{"run", name, "-n", "run", "--dry-run=server"}, args...)...)
		if _, err := s.client.Deployments("run").Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) || serverSide != "deployment.fleet.nationtech.io/"+name+" created (server dry run)\n" {
			t.Errorf("%s: a dry run on the server says %q and left %v", name, serverSide, err)
		}
		if out := s.run(append([]string{"run", name, "-n", "run"}, args...)...); out != "deployment.fleet.nationtech.io/"+name+" created\n" {
			t.Errorf("%s: %q", name, out)
		}
		fromFile, applied := s.deployment("file", name), s.deployment("run", name)
		if diff := cmp.Diff(fromFile.Spec, applied.Spec); diff != "" {
			t.Errorf("%s: spec (-file +run): %s", name, diff)
		}
		if diff := cmp.Diff(fromFile.Labels, applied.Labels); diff != "" {
			t.Errorf("%s: labels (-file +run): %s", name, diff)
		}
	}
}

// TestRunChangesWhatItAppliedAndNothingElse says what became of a Deployment.
func TestRunChangesWhatItAppliedAndNothingElse(t *testing.T) {
	s := start(t)
	is := func(want string, args ...string) {
		t.Helper()
		if out := s.run(append([]string{"run", "web", "--image", image, "--all"}, args...)...); out != "deployment.fleet.nationtech.io/web "+want+"\n" {
			t.Errorf("%v: %q, want %q", args, out, want)
		}
	}
	is("created", "--env", "A=1")
	is("unchanged", "--env", "A=1")
	is("unchanged (server dry run)", "--env", "A=1", "--dry-run=server")
	is("configured (server dry run)", "--env", "A=2", "--dry-run=server")
	is("configured", "--env", "A=2")
	is("configured") // what it does not say any more is gone
	is("configured", "--labels", "team=a")
	if d := s.deployment("default", "web"); strings.Contains(string(d.Spec.Score.Data.Raw), `"env"`) || d.Labels["team"] != "a" {
		t.Errorf("it is %s, %v", d.Spec.Score.Data.Raw, d.Labels)
	}
	// Somebody else writes the score.
	patch := []byte(`{"spec":{"score":{"data":{"services":[{"name":"web","image":"docker.io/library/nginx:1.30"}]}}}}`)
	if _, err := s.client.Deployments("default").Patch(t.Context(), "web", types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "ann"}); err != nil {
		t.Fatal(err)
	}
	_, _, err := s.both(t.Context(), "run", "web", "--image", image, "--all")
	if err == nil || !strings.Contains(err.Error(), `conflict with "ann"`) || !strings.Contains(err.Error(), "--force-conflicts") {
		t.Errorf("it overwrites what ann wrote: %v", err)
	}
	is("configured", "--force-conflicts")
	// The server has the last word about what the client does not know.
	out, _, err := s.both(t.Context(), "run", "net", "--image", image, "--all", "-n", "nowhere")
	if err == nil || !strings.Contains(said(err), "Error from server (NotFound)") {
		t.Errorf("in a namespace that is not there: %q, %v", out, err)
	}
}

func TestStatusAndDevices(t *testing.T) {
	s := start(t)
	s.namespace("shop")
	s.device("press-7", map[string]string{"site": "a"})
	s.device("press-8", map[string]string{"site": "b"})
	s.run("run", "web", "--image", image, "--selector", "site=a", "--labels", "team=a")
	s.run("run", "nobody", "--image", image, "--selector", "site=c")
	s.run("run", "all", "--image", image, "--all", "-n", "shop")
	s.eventually("the controllers", func() error {
		out := s.run("status", "-A", "--no-headers")
		for _, want := range []string{"Rolling", "NoDevice"} {
			if !strings.Contains(out, want) || strings.Contains(out, "Unknown") {
				return fmt.Errorf("status says %s", out)
			}
		}
		if out := s.run("devices", "--no-headers"); strings.Count(out, "False") != 4 {
			return fmt.Errorf("the devices are %s", out)
		}
		return nil
	})
	var b strings.Builder
	for _, line := range []string{
		"status", "status web", "status -A -o wide", "status -l team=a -L team", "status web --show-kind --no-headers", "status -n shop -o name", "status -o custom-columns=N:.metadata.name",
		"status web -o jsonpath={.status.aggregate.pending}", "status none", "status none --ignore-not-found", "status -n kube-public",
		"status web -l a=b", "status web -A", "status --sort-by .metadata.name", "status -l (", "status a b",
		"devices", "devices press-7 -o name", "devices -l site=b --show-labels --no-headers", "devices none", "devices --pending", "devices -o yml",
	} {
		stdout, stderr, err := s.both(t.Context(), strings.Fields(line)...)
		b.WriteString("$ kubectl fleet " + line + "\n" + stdout + stderr)
		if err != nil {
			b.WriteString(said(err) + "\n")
		}
		b.WriteString("\n")
	}
	golden.Compare(t, "server", unchanging(b.String()))
}

// ages are another on each run.
var ages = regexp.MustCompile(`(?m)\b\d+s\b *`)

func unchanging(text string) string { return ages.ReplaceAllString(text, "AGE ") }

// page is what a command that does not end printed so far.
type page struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (p *page) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(data)
}

func (p *page) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// shows waits until a text is on a page.
func (s *server) shows(p fmt.Stringer, text string) {
	s.t.Helper()
	s.eventually(text, func() error {
		if shown := p.String(); !strings.Contains(shown, text) {
			return fmt.Errorf("it shows %q", shown)
		}
		return nil
	})
}

// watch runs status --watch until the test has it end.
func (s *server) watch(out, errOut io.Writer, args ...string) (end func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	root := plugin.NewProgram()
	root.SetArgs(append([]string{"status", "--watch", "--kubeconfig", s.kubeconfig, "--cache-dir", s.t.TempDir()}, args...))
	root.SetOut(out)
	root.SetErr(errOut)
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	return func() {
		s.t.Helper()
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("it ends with %v", err)
		}
	}
}

func TestWatchIntoAFile(t *testing.T) {
	s := start(t)
	s.run("run", "web", "--image", image, "--selector", "site=a")
	var out, errOut page
	end := s.watch(&out, &errOut)
	s.shows(&out, "NoDevice")
	s.device("press-7", map[string]string{"site": "a"})
	s.shows(&out, "0/1")
	s.run("run", "api", "--image", image, "--all")
	s.shows(&out, "api ")
	if err := s.client.Deployments("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.shows(&errOut, "default/web is deleted\n")
	end()
	if n := strings.Count(out.String(), "NAME "); n != 1 {
		t.Errorf("%d headers: %s", n, out.String())
	}
}

// TestWatchOnATerminal: the table stays in its place, of one Deployment only.
func TestWatchOnATerminal(t *testing.T) {
	s := start(t)
	s.run("run", "web", "--image", image, "--selector", "site=a")
	s.run("run", "other", "--image", image, "--selector", "site=a")
	person, program := terminal.Open(t)
	var seen, errOut page
	read := make(chan struct{})
	go func() { defer close(read); _, _ = io.Copy(&seen, person) }()
	end := s.watch(program, &errOut, "web")
	s.shows(&seen, "NoDevice")
	s.device("press-7", map[string]string{"site": "a"})
	s.shows(&seen, "0/1")
	end()
	if shown := seen.String(); !strings.Contains(shown, "\x1b[2A") || strings.Contains(shown, "other") {
		t.Errorf("it is not drawn over itself, or shows another Deployment: %q", shown)
	}
	if errOut.String() != "" {
		t.Errorf("it says %q", errOut.String())
	}
}

func TestTokensAndApproval(t *testing.T) {
	s := start(t)
	s.eventually("the ConfigMap", func() error {
		_, err := ops.ReadDoor(t.Context(), s.kube)
		return err
	})
	stdout, stderr, err := s.both(t.Context(), "token", "create", "--pre-approve", "--label", "site=a")
	if err != nil {
		t.Fatal(err)
	}
	token, err := wire.ParseToken(stdout)
	if err != nil {
		t.Fatal(err)
	}
	door, err := ops.ReadDoor(t.Context(), s.kube)
	if err != nil || token.CAHash != door.Root || !strings.Contains(stderr, "fleet-agent enroll --server "+door.URL+"\n") {
		t.Errorf("%v: the token pins %s, and the root is %s; it says %q", err, token.CAHash, door.Root, stderr)
	}
	if o, err := s.client.EnrollmentTokens().Get(t.Context(), token.ID, metav1.GetOptions{}); err != nil || !token.Matches(o.Spec.SecretHash) || !o.Spec.PreApproved || o.Spec.Labels["site"] != "a" {
		t.Errorf("the token is %+v, %v", o, err)
	}
	for name, seed := range map[string]string{"edge-1": "one", "edge-2": "two"} {
		if _, err := s.client.EnrollmentRequests().Create(t.Context(), &v1alpha1.EnrollmentRequest{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v1alpha1.EnrollmentRequestSpec{KeyFingerprint: wire.Sum([]byte(seed)).String(), CSR: "x", Address: "192.0.2.7"},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if out := s.run("__complete", "approve", "edge"); !strings.HasPrefix(out, "edge-1\nedge-2\n:4\n") {
		t.Errorf("the shell is told %q", out)
	}
	fingerprint := wire.ShowFingerprint(wire.Sum([]byte("one")).String())
	if out, _, err := s.both(t.Context(), "approve", "edge-1"); err == nil || !strings.Contains(err.Error(), "--fingerprint") || !strings.Contains(out, fingerprint) {
		t.Errorf("without a terminal: %v, %q", err, out)
	}
	if out := s.run("approve", "edge-1", "--fingerprint", fingerprint); !strings.Contains(out, "edge-1: Approved") {
		t.Errorf("it says %q", out)
	}
	if out := s.run("deny", "edge-2"); !strings.Contains(out, "edge-2: Denied") {
		t.Errorf("it says %q", out)
	}
	if out := s.run("reopen", "edge-2"); out != "edge-2: open\n" {
		t.Errorf("it says %q", out)
	}
	s.eventually("the device", func() error {
		_, err := s.client.Devices().Get(t.Context(), "edge-1", metav1.GetOptions{})
		return err
	})
	s.run("revoke", "edge-1", "--workloads", "wipe")
	if d, err := s.client.Devices().Get(t.Context(), "edge-1", metav1.GetOptions{}); err != nil || !d.Spec.Revoked || d.Spec.OnRevoke != v1alpha1.RevokeWipe {
		t.Errorf("it is %+v, %v", d, err)
	}
	if _, _, err := s.both(t.Context(), "revoke", "edge-9"); err == nil || !strings.Contains(err.Error(), "see `kubectl fleet devices`") {
		t.Errorf("%v", err)
	}
	if _, _, err := s.both(t.Context(), "approve", "edge-9"); err == nil || !strings.Contains(err.Error(), "see `kubectl fleet devices --pending`") {
		t.Errorf("%v", err)
	}
}

// TestAHostileDoorIsRefused: whoever may write the ConfigMap runs no program on a device.
func TestAHostileDoorIsRefused(t *testing.T) {
	s := start(t)
	configMaps := s.kube.CoreV1().ConfigMaps(ops.DoorNamespace)
	var cm *corev1.ConfigMap
	s.eventually("the ConfigMap", func() (err error) {
		cm, err = configMaps.Get(t.Context(), ops.DoorName, metav1.GetOptions{})
		return err
	})
	good := cm.Data
	for key, values := range map[string][]string{
		"root":      {"", "x", strings.ToUpper(good["root"]), good["root"] + "\n"},
		"url":       {"", "http://gateway:8443", "https://gateway", "https://gateway:8443/", "https://a'; touch /tmp/x; 'b:1", "https://user@gateway:8443", "https://gateway:8443?x", "https://$(id):8443"},
		"pin":       {"", "sha256//x", good["pin"] + "' https://evil '", strings.TrimSuffix(good["pin"], "=")},
		"installer": {"https://evil:1/install.sh", good["url"] + "/a b", good["url"] + "/$(id)", good["url"] + "/../x", good["url"] + "1/x", good["url"] + "/x'y"},
	} {
		for _, value := range values {
			cm.Data = maps.Clone(good)
			cm.Data[key] = value
			var err error
			if cm, err = configMaps.Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			stdout, stderr, err := s.both(t.Context(), "token", "create")
			if err == nil || !strings.Contains(err.Error(), "is damaged: "+key+": ") || stdout+stderr != "" {
				t.Errorf("%s %q: %v, %q", key, value, err, stdout+stderr)
			}
		}
	}
	cm.Data = maps.Clone(good)
	cm.Data["installer"] = good["url"] + "/install.sh"
	if _, err := configMaps.Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := s.both(t.Context(), "token", "create")
	if want := "curl -fsS -k --pinnedpubkey '" + good["pin"] + "' " + good["url"] + "/install.sh | FLEET_TOKEN='" + strings.TrimSpace(stdout) + "' sh\n"; err != nil || !strings.HasSuffix(stderr, want) {
		t.Errorf("%v: it says %q, want %q", err, stderr, want)
	}
	if err := configMaps.Delete(t.Context(), ops.DoorName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.both(t.Context(), "token", "create"); err == nil || !strings.Contains(err.Error(), "kube-public/fleet-enrollment is missing") {
		t.Errorf("without it: %v", err)
	}
}
