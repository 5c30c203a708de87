package interop_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/test/process"
	"fleet.nationtech.io/fleet/test/wait"
)

// timeout bounds each wait; it measures nothing.
const timeout = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// binary is a program that `make interop` made.
func binary(t *testing.T, name string) string {
	t.Helper()
	if os.Getenv("FLEET_INTEROP") == "" {
		t.Skip("the programs of others take minutes to build: run make interop")
	}
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: run make interop", err)
	}
	return path
}

// site is a server with simulated devices: two with label group=g1, and one with
// label broken=g1, on which everything fails.
type site struct {
	*process.Server
	t *testing.T
}

func newSite(t *testing.T) site {
	t.Helper()
	server, err := process.StartServer(t.Context(), process.Config{Binary: binary(t, "fleet-server"), DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := site{server, t}
	s.simulate("group", 2)
	s.simulate("broken", 1, "--fail-share", "1")
	s.kubectl("wait", "--for=create", "fleetdev", "-l", "group=g1", "--timeout=60s")
	s.eventually("the devices connect", func() error {
		out, err := s.Kubectl(t.Context(), "get", "fleetdev", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && out != "True True True" {
			err = fmt.Errorf("ready: %q", out)
		}
		return err
	})
	return s
}

// simulate runs devices until the end of the test.
func (s site) simulate(label string, devices int, args ...string) {
	s.t.Helper()
	token, err := s.Token(s.t.Context(), "--pre-approve", "--uses", fmt.Sprint(devices), "--allow-label", label)
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		s.t.Fatal(err)
	}
	args = append(args, "--server", s.EnrollURL, "--token-file", file, "--devices", fmt.Sprint(devices),
		"--group-sizes", fmt.Sprint(devices), "--group-label", label, "--name-prefix", label, "--report-delay", "2s")
	cmd := exec.Command(binary(s.t, "fleet-sim"), args...)
	cmd.Stdout, cmd.Stderr = s.t.Output(), s.t.Output()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill() // ended already: fine
		_ = cmd.Wait()         // killed
	})
}

// kubectl runs kubectl, which has to succeed.
func (s site) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.Kubectl(s.t.Context(), args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// run runs a program of others, as an administrator.
func (s site) run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	s.t.Helper()
	cmd := exec.CommandContext(ctx, binary(s.t, filepath.Join("interop", name)), args...)
	cmd.Env = s.environment()
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}

// environment keeps what programs write in a directory of the test.
func (s site) environment() []string {
	home := s.t.TempDir()
	return []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + s.Kubeconfig(), "TERM=xterm-256color", "LANG=C.UTF-8"}
}

func (s site) eventually(what string, check func() error) {
	s.t.Helper()
	wait.For(s.t, what, timeout, 50*time.Millisecond, check)
}

// deployment is one that devices with the label run.
func deployment(name, label, image string) string {
	return fmt.Sprintf(`{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment, metadata: {name: %s, namespace: default}, spec: {
  targetSelector: {matchLabels: {%s: g1}}, score: {type: PodmanV0, data: {services: [{name: web, image: "%s"}]}}}}`, name, label, image)
}
