package hostinstall_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
)

const scripts = "/usr/local/libexec/fleet-agent/"

// TestAgent installs an agent, which starts once it is enrolled, and removes it.
func TestAgent(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	before := m.tree()
	program := release(t, "agent")
	run := func() string {
		t.Helper()
		in, out := agent(m)
		in.Program = program
		if err := in.Install(t.Context(), hostinstall.Options{}); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return out.String()
	}
	if out := run(); m.enabled || m.active || !strings.Contains(out, "enroll --server") {
		t.Errorf("before it is enrolled: enabled %t, active %t\n%s", m.enabled, m.active, out)
	}
	for _, path := range []string{"/etc/systemd/system/fleet-agent.service", scripts + "setup-user"} {
		if got := m.read(path); !strings.Contains(got, "/usr/local/") && !strings.Contains(got, "/etc/tmpfiles.d/") || strings.Contains(got, "/usr/lib/tmpfiles.d/fleet") {
			t.Errorf("%s speaks of a package's places:\n%s", path, got)
		}
	}
	m.write("/etc/fleet-agent/agent.yaml", "device: a\n")
	run()
	if !m.enabled || !m.active || m.starts != 1 {
		t.Errorf("once it is enrolled: enabled %t, active %t, %d starts", m.enabled, m.active, m.starts)
	}
	in, out := agent(m)
	if err := in.Uninstall(t.Context(), hostinstall.Removal{Purge: true, Volumes: true}); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out.String(), "a word from purge") {
		t.Errorf("what cleanup-user says is lost:\n%s", out)
	}
	if diff := cmp.Diff([]string{"FLEET_PURGE_VOLUMES=yes purge"}, m.cleanups); diff != "" {
		t.Errorf("cleanup-user was not told so:\n%s", diff)
	}
	after := m.tree()
	delete(after, "/etc/fleet-agent/")
	delete(after, "/etc/fleet-agent/agent.yaml") // cleanup-user's
	delete(after, data+"/")
	delete(after, data+"/state.db") // of this test's systemd
	if diff := cmp.Diff(before, after); diff != "" || m.enabled || m.active {
		t.Errorf("left: enabled %t, active %t\n%s", m.enabled, m.active, diff)
	}
}
