package plugin_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/kubectl/pkg/cmd/util"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/logging/capture"
	"fleet.nationtech.io/fleet/pkg/plugin"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/test/golden"
	"fleet.nationtech.io/fleet/test/terminal"
)

func TestMain(m *testing.M) {
	capture.Install(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// machine is a machine with a kubeconfig, or with none when that is empty.
type machine struct {
	t          testing.TB
	kubeconfig string
}

// both runs the plugin, and returns its standard output and its standard error.
func (m machine) both(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	m.t.Helper()
	var out, errOut bytes.Buffer
	root := plugin.NewProgram()
	kubeconfig := m.kubeconfig
	if kubeconfig == "" {
		kubeconfig = os.DevNull
	}
	before := 0
	if args[0] == "__complete" {
		before = 1
	}
	root.SetArgs(slices.Insert(slices.Clone(args), before, "--kubeconfig", kubeconfig, "--cache-dir", m.t.TempDir()))
	root.SetIn(strings.NewReader(""))
	root.SetOut(&out)
	root.SetErr(&errOut)
	err = root.ExecuteContext(ctx)
	return out.String(), errOut.String(), err
}

func (m machine) run(args ...string) string {
	m.t.Helper()
	out, _, err := m.both(m.t.Context(), args...)
	if err != nil {
		m.t.Fatalf("%v: %v", args, err)
	}
	return out
}

// said is an error as the program says it.
func said(err error) (text string) {
	util.BehaviorOnFatal(func(msg string, _ int) { text = msg })
	defer util.DefaultBehaviorOnFatal()
	util.CheckErr(err)
	return text
}

func TestHelpOfEachCommand(t *testing.T) {
	t.Setenv("HOME", "/home/ann")
	golden.Compare(t, "help", golden.Help(t, plugin.NewProgram))
}

// TestWhatRunPrints runs nothing: it has no server.
func TestWhatRunPrints(t *testing.T) {
	m := machine{t: t}
	const image = "docker.io/library/nginx:1.29"
	var b strings.Builder
	for _, args := range [][]string{
		{"web", "--image", image, "--target-device", "press-7"},
		{"web", "--image", image, "--target-device", "press-7", "-o", "yaml"},
		{"web", "--image", image, "--target-device", "press-7", "--target-device", "press-8,press-7", "--selector", "site=plant-1", "-o", "yaml"},
		{"web", "--image", image, "-l", "site in (b,a),!spare", "-l", "line!=3", "-n", "shop", "--labels", "team=a", "-o", "yaml"},
		{"web", "--image", image, "--all", "--port", "8080", "--port", "127.0.0.1:5353:53/udp", "--env", "A=1", "--env", "B=x=y z", "--restart", "Never", "-o", "json", "--", "-v", "--level=debug"},
		{"web", "--image", image, "--all", "--command", "-o", "yaml", "--", "sh", "-c", "echo $HOME"},
		{"web", "--image", image, "--all", "-o", "name"},
		{"web", "--image", image, "--all", "-o", "jsonpath={.spec.score.data.services[0].image}"},
		// Mistakes.
		{"web", "--image", image},
		{"web", "--image", image, "--all", "--selector", "a=b"},
		{"web", "--image", image, "--selector", ""},
		{"web", "--image", image, "--selector", "a=b", "--selector", "a=c"},
		{"web", "--image", image, "--selector", "device-id=press-7", "--target-device", "press-8"},
		{"web", "--image", image, "--selector", "a>3"},
		{"web", "--image", image, "--selector", "a in (b"},
		{"web", "--image", image, "--target-device", "Press 7"},
		{"web", "--image", image, "--target-device", ""},
		{"web", "--image", "nginx", "--all"},
		{"web", "--image", image, "--all", "--port", "0"},
		{"web", "--image", image, "--all", "--port", "80", "--port", "80:81"},
		{"web", "--image", image, "--all", "--env", "A"},
		{"web", "--image", image, "--all", "--env", "=b"},
		{"web", "--image", image, "--all", "--labels", "a b=c"},
		{"web", "--image", image, "--all", "--restart", "Sometimes"},
		{"../web", "--image", image, "--all"},
		{"web\x1b[2J\n", "--image", image, "--all"},
		{strings.Repeat("w", 64), "--image", image, "--all"},
		{"web", "api", "--image", image, "--all"},
		{"--image", image, "--all"},
		{"web", "--all"},
		{"web", "--image", image, "--all", "-o", "toml"},
	} {
		line := "$ kubectl fleet run " + strings.Join(args, " ")
		at := len(args)
		for i, a := range args {
			if a == "--" {
				at = i
			}
		}
		full := append(append(append([]string{"run"}, args[:at]...), "--dry-run=client"), args[at:]...)
		stdout, stderr, err := m.both(t.Context(), full...)
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(line, "\n", `\n`), "\x1b", `\e`) + "\n" + stdout + stderr)
		if err != nil {
			b.WriteString(strings.TrimSuffix(said(err), "\n") + "\n")
		}
		b.WriteString("\n")
	}
	golden.Compare(t, "run", b.String())
}

func TestPorts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]score.Port{
		"80":                {HostPort: 80, ContainerPort: 80},
		"8080:80":           {HostPort: 8080, ContainerPort: 80},
		"53/udp":            {HostPort: 53, ContainerPort: 53, Protocol: "UDP"},
		"8080:80/TCP":       {HostPort: 8080, ContainerPort: 80, Protocol: "TCP"},
		"127.0.0.1:80:81":   {HostPort: 80, ContainerPort: 81, HostIP: "127.0.0.1"},
		"[::1]:80:81/udp":   {HostPort: 80, ContainerPort: 81, HostIP: "::1", Protocol: "UDP"},
		"fd00::7:8080:80":   {HostPort: 8080, ContainerPort: 80, HostIP: "fd00::7"},
		"65535:65535":       {HostPort: 65535, ContainerPort: 65535},
		"192.0.2.1:1:2/tcp": {HostPort: 1, ContainerPort: 2, HostIP: "192.0.2.1", Protocol: "TCP"},
	} {
		got, err := plugin.ParsePort(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v: %s", text, err, diff)
		}
	}
	for _, text := range []string{"", "0", "65536", "-1", "+1", "80/", "80/sctp", ":80", "80:", "::80", "host:80:80", "1:2:3", "a", "80:81:82:83", "80 ", "0x50", "[::1:80:81"} {
		if got, err := plugin.ParsePort(text); err == nil && text != "[::1:80:81" {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

// FuzzPort: a port that is parsed is one that a score may have.
func FuzzPort(f *testing.F) {
	for _, seed := range []string{"80", "8080:80", "127.0.0.1:80:81/udp", "[::1]:80:81", "::", "/", "80/tcp/udp"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := plugin.ParsePort(text)
		if err == nil && (p.HostPort < 1 || p.HostPort > 65535 || p.ContainerPort < 1 || p.ContainerPort > 65535 || p.Protocol != "" && p.Protocol != "TCP" && p.Protocol != "UDP") {
			t.Errorf("%q is %+v", text, p)
		}
	})
}

// deployments are one of each standing.
func deployments(now time.Time) []*v1alpha1.Deployment {
	at := metav1.NewTime(now.Add(-3 * time.Hour))
	d := func(name string, a *v1alpha1.Aggregate, conditions ...metav1.Condition) *v1alpha1.Deployment {
		return &v1alpha1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Generation: 2, CreationTimestamp: at},
			Spec:       v1alpha1.DeploymentSpec{Score: v1alpha1.Score{Type: "PodmanV0"}},
			Status:     v1alpha1.DeploymentStatus{ObservedGeneration: 2, Aggregate: a, Conditions: conditions},
		}
	}
	is := func(typ, message string) metav1.Condition {
		return metav1.Condition{Type: typ, Status: metav1.ConditionTrue, Message: message}
	}
	accepted := is("Accepted", "")
	unseen := d("unseen", nil)
	unseen.Status.ObservedGeneration = -1
	deleted := d("deleted", &v1alpha1.Aggregate{MatchedDeviceCount: 1, Succeeded: 1}, accepted, is("Ready", ""))
	deleted.DeletionTimestamp = &at
	other := d("ready", &v1alpha1.Aggregate{MatchedDeviceCount: 1, Succeeded: 1}, accepted)
	other.Namespace = "default"
	return []*v1alpha1.Deployment{
		unseen, deleted, other,
		d("refused", nil, metav1.Condition{Type: "Accepted", Status: metav1.ConditionFalse, Message: "spec.score.data.services: at least one service is needed"}, is("Stalled", "the score is not accepted")),
		d("failed", &v1alpha1.Aggregate{MatchedDeviceCount: 5, Succeeded: 3, Failed: 1, Pending: 1, Offline: 1, Outdated: 1}, accepted, is("Stalled", "on press-7: \x1b[2Jno such image\n")),
		d("pulling", &v1alpha1.Aggregate{MatchedDeviceCount: 2, Pending: 2, Progress: &v1alpha1.DeviceProgress{Device: "press-7", Message: "pulling web: 34 of 120 MB"}}, accepted, is("Reconciling", "2 of 2 to go")),
		d("rolling", &v1alpha1.Aggregate{MatchedDeviceCount: 2, Succeeded: 1, Pending: 1}, accepted, is("Reconciling", "1 of 2 devices run the current score")),
		d("nobody", &v1alpha1.Aggregate{}, accepted, is("Ready", "")),
		d("ready", &v1alpha1.Aggregate{MatchedDeviceCount: 2, Succeeded: 2}, accepted, is("Ready", "")),
	}
}

func TestWhatStatusShows(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	var b strings.Builder
	for _, o := range []struct{ wide, namespaces bool }{{false, true}, {true, false}} {
		if err := printers.NewTablePrinter(printers.PrintOptions{Wide: o.wide}).PrintObj(plugin.Table(deployments(now), o.namespaces, now), &b); err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n")
	}
	golden.Compare(t, "status", b.String())
}

// TestTheTableIsDrawnOverItself: the second text stands where the first one stood, no
// line becomes two, and nothing in a text moves the cursor.
func TestTheTableIsDrawnOverItself(t *testing.T) {
	t.Parallel()
	person, program := terminal.Open(t)
	draw, ok := plugin.Draw(program)
	if !ok {
		t.Fatal("a terminal is none")
	}
	for _, text := range []string{"one\ntwo\n", "three\x1b[2J\u202e\n"} {
		if err := draw(text); err != nil {
			t.Fatal(err)
		}
	}
	const want = "\x1b[?7l\rone\x1b[K\r\n\rtwo\x1b[K\r\n\x1b[J\x1b[?7h" + "\x1b[?7l\x1b[2A\rthree\\u001b[2J\\u202e\x1b[K\r\n\x1b[J\x1b[?7h"
	if err := person.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	n, err := io.ReadFull(person, got)
	if diff := cmp.Diff(want, string(got[:n])); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	pipe, _, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if _, ok := plugin.Draw(pipe); ok {
		t.Error("a pipe is a terminal")
	}
}
