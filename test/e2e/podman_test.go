//go:build linux

package e2e_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/test/lab"
)

// TestPodmanConforms runs the conformance suites of the container runtime and of the
// driver of containers, which the agent's tests pass with a fake, on the real podman
// of each suite, as the
// user of the agent.
func TestPodmanConforms(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "podman.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", program, "../../pkg/podman")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the suite: %v: %s", err, out)
	}
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := machine(t, "conform-"+suite, suite)
			const inside = "/usr/local/bin/podman.test"
			if err := m.CopyIn(t.Context(), program, inside, 0o755); err != nil {
				t.Fatal(err)
			}
			out, err := m.OutputAs(t.Context(), lab.AgentUser, "env", "FLEET_TEST_PODMAN_SOCKET="+lab.PodmanSocket,
				inside, "-test.run", "Conforms", "-test.v", "-test.timeout", "4m")
			// A suite that was skipped ends well, too.
			if err != nil || !strings.Contains(out, "--- PASS: TestPodmanConforms") || !strings.Contains(out, "--- PASS: TestDriverConforms") || !strings.Contains(out, "--- PASS: TestWatchConforms") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// machine boots a machine that is set up for the agent, without one.
func machine(t *testing.T, name, suite string) *lab.Machine {
	t.Helper()
	l, err := lab.Open(t.Context(), lab.Options{Progress: t.Output()})
	if errors.Is(err, lab.ErrUnsupported) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	network, err := lab.NewNetwork(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	m, err := l.Boot(t.Context(), lab.Config{Name: name, Suite: suite, Network: network})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.Destroy(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := m.InstallAgent(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	return m
}
