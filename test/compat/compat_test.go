package compat_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/test/process"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	tree        = "../.."
	waitTimeout = 60 * time.Second
	poll        = 50 * time.Millisecond
	// simulated is how many devices fleet-sim runs: podman would need a machine.
	simulated = 3
)

// TestOldAndNew runs each server with the agents of the other.
func TestOldAndNew(t *testing.T) {
	t.Parallel()
	base := baseOf(t)
	old, present := build(t, source(t, base)), built(t)
	for name, tc := range map[string]struct{ server, agents string }{
		"agents of before":  {present, old},
		"server of before":  {old, present},
		"both of this tree": {present, present}, // the control
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, tc.server)
			s.simulate(tc.agents)
			s.agent(tc.agents)
			s.deploy("web")
			s.succeeds("web", simulated)
			s.deploy("api") // a change, while they are connected
			s.succeeds("api", simulated)
		})
	}
}

// TestSharedInboxesAreRefused: see the package's comment.
func TestSharedInboxesAreRefused(t *testing.T) {
	t.Parallel()
	const before = "05222b7"
	ancient := source(t, before)
	bin := t.TempDir()
	run(t, ancient, "go", "build", "-o", bin, "./cmd/fleet-sim")
	s := newSite(t, built(t))
	s.simulate(bin)
	wait.For(t, "a line in the log", waitTimeout, poll, func() error {
		if !strings.Contains(s.Log(), "agent is too old for this server") {
			return errors.New(s.Log())
		}
		return nil
	})
	devices, err := s.client.Devices().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(devices.Items) != simulated {
		t.Fatalf("devices: %v, %v", devices, err)
	}
	for _, d := range devices.Items {
		if meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceConnected) {
			t.Errorf("device %s is connected", d.Name)
		}
	}
}

func baseOf(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("base")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// source unpacks the tree of a commit.
func source(t *testing.T, commit string) (dir string) {
	t.Helper()
	if err := exec.CommandContext(t.Context(), "git", "-C", tree, "cat-file", "-e", commit+"^{commit}").Run(); err != nil {
		t.Fatalf("commit %s is not in the history: fetch all of it (git fetch --unshallow): %v", commit, err)
	}
	dir = t.TempDir()
	archive := exec.CommandContext(t.Context(), "git", "-C", tree, "archive", "--format=tar", commit)
	unpack := exec.CommandContext(t.Context(), "tar", "-x", "-C", dir)
	var err error
	if unpack.Stdin, err = archive.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unpack.Start(), archive.Run(), unpack.Wait()); err != nil {
		t.Fatalf("unpacking commit %s: %v", commit, err)
	}
	return dir
}

// built is where the programs of this tree are.
func built(t *testing.T) (bin string) {
	t.Helper()
	bin, err := filepath.Abs(filepath.Join(tree, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fleet-server", "fleet-agent", "fleet-sim"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Fatalf("%v: run make build first", err)
		}
	}
	return bin
}

// build builds the programs of a tree, as the tests are built.
func build(t *testing.T, source string) (bin string) {
	t.Helper()
	bin = t.TempDir()
	run(t, source, "go", "build", "-o", bin, "./cmd/fleet-server", "./cmd/fleet-agent", "./cmd/fleet-sim")
	return bin
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// site is a server with a client of its API.
type site struct {
	*process.Server

	t      *testing.T
	client *client.Client
}

func newSite(t *testing.T, bin string) *site {
	t.Helper()
	dir := t.TempDir()
	s, err := process.StartServer(t.Context(), process.Config{Binary: filepath.Join(bin, "fleet-server"), DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return &site{Server: s, t: t, client: c}
}

// token writes a token that lets devices in into a file.
func (s *site) token(uses int) (path string) {
	s.t.Helper()
	token, err := s.Token(s.t.Context(), "--pre-approve", "--uses", fmt.Sprint(uses))
	if err != nil {
		s.t.Fatal(err)
	}
	path = filepath.Join(s.t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// simulate runs simulated devices until the end of the test.
func (s *site) simulate(bin string) {
	s.t.Helper()
	s.start(nil, filepath.Join(bin, "fleet-sim"), "--server", s.EnrollURL, "--token-file", s.token(simulated), "--devices", fmt.Sprint(simulated), "--name-prefix", "sim", "--report-delay", "0")
	wait.For(s.t, "simulated devices", waitTimeout, poll, func() error {
		devices, err := s.client.Devices().List(s.t.Context(), metav1.ListOptions{})
		if err == nil && len(devices.Items) != simulated {
			err = fmt.Errorf("%d are there", len(devices.Items))
		}
		return err
	})
}

// agent enrolls and runs fleet-agent until the end of the test, without podman: it
// connects, and reports that.
func (s *site) agent(bin string) {
	s.t.Helper()
	dir := s.t.TempDir()
	config := filepath.Join(dir, "agent.yaml")
	text := fmt.Sprintf("stateDir: %s\npodman:\n  socket: %s\n", filepath.Join(dir, "state"), filepath.Join(dir, "podman.sock"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	agent := filepath.Join(bin, "fleet-agent")
	run(s.t, dir, agent, "enroll", "--config", config, "--server", s.EnrollURL, "--name", "edge-1", "--token-file", s.token(1))
	s.start([]string{"XDG_RUNTIME_DIR=" + dir}, agent, "run", "--config", config)
	wait.For(s.t, "a report of the agent", waitTimeout, poll, func() error {
		d, err := s.client.Devices().Get(s.t.Context(), "edge-1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceConnected) || !meta.IsStatusConditionFalse(d.Status.Conditions, v1alpha1.DevicePodmanReady) {
			return fmt.Errorf("conditions are %+v", d.Status.Conditions)
		}
		return nil
	})
}

// start runs a program until the end of the test.
func (s *site) start(env []string, name string, args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = waitTimeout
	if err := cmd.Start(); err != nil {
		cancel()
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // how it ended matters to a test that failed alone
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", filepath.Base(name), out.String())
		}
	})
}

// deploy creates a Deployment for the simulated devices.
func (s *site) deploy(name string) {
	s.t.Helper()
	data, err := json.Marshal(map[string]any{"services": []any{map[string]any{"name": "web", "image": "localhost/hello:1"}}})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = s.client.Deployments("default").Create(s.t.Context(), &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: v1alpha1.LabelDeviceID, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"edge-1"}}}},
			Score:          v1alpha1.Score{Type: "PodmanV0", Data: runtime.RawExtension{Raw: data}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
}

// succeeds waits until so many devices run a Deployment.
func (s *site) succeeds(name string, n int) {
	s.t.Helper()
	wait.For(s.t, name, waitTimeout, poll, func() error {
		d, err := s.client.Deployments("default").Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if a := d.Status.Aggregate; a == nil || a.Succeeded != n || a.MatchedDeviceCount != n {
			return fmt.Errorf("aggregate is %+v", a)
		}
		return nil
	})
}
