package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
)

func TestGiveTreeStaysInside(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	const account = 4242
	dir, outside := t.TempDir(), t.TempDir()
	for _, path := range []string{filepath.Join(dir, "bodies", "sha256"), filepath.Join(outside, "shadow")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"directory": outside, "file": filepath.Join(outside, "shadow"), "up": ".."} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	// A second name of a file of root's, where the kernel lets an account make one.
	if err := os.Link(filepath.Join(outside, "shadow"), filepath.Join(dir, "second-name")); err != nil {
		t.Fatal(err)
	}
	if err := giveTree(dir, account, account); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]uint32{
		dir: account, filepath.Join(dir, "bodies"): account, filepath.Join(dir, "bodies", "sha256"): account, filepath.Join(dir, "directory"): account,
		outside: 0, filepath.Join(outside, "shadow"): 0, filepath.Dir(dir): 0,
	} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || owner.Uid != want || owner.Gid != want {
			t.Errorf("%s belongs to %d:%d, want %d", path, owner.Uid, owner.Gid, want)
		}
	}
}

func TestNothingSpeaksToRootsTerminal(t *testing.T) {
	t.Parallel()
	const planted = "fails: \x1b]0;title\a\x1b[6n\u009b6n\r\x7f"
	var out bytes.Buffer
	err := printStatus(&out, control.Status{Device: planted, LastError: planted}, time.Now())
	if err == nil {
		err = printReport(&out, doctor.Report{Findings: []doctor.Finding{{Check: "podman", State: doctor.Failure, Message: planted}}}, "text")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range out.String() {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			t.Errorf("%q is printed", r)
		}
	}
	if strings.Count(out.String(), "fails: ") != 3 {
		t.Errorf("got %s", out.String())
	}
}

// TestEnrollmentIntoADirectoryOfTheAgents: what the agent's account put there
// neither leads root elsewhere nor keeps it waiting.
func TestEnrollmentIntoADirectoryOfTheAgents(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to give up")
	}
	const account = 4242
	h, g := newHost(t), newGateway(t)
	dir := filepath.Join(public(t), "state")
	if err := errors.Join(os.Mkdir(dir, 0o700), syscall.Mkfifo(filepath.Join(dir, "clock.json"), 0o666), os.Chown(dir, account, account)); err != nil {
		t.Fatal(err)
	}
	h.write("etc/agent.yaml", "stateDir: "+dir+"\n")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--config", h.config, "enroll", "--server", g.url, "--name", "pi-1"}, strings.NewReader(g.token), &out, &out); err != nil {
		t.Fatal(err, out.String())
	}
	info, err := os.Lstat(filepath.Join(dir, "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || owner.Uid != account {
		t.Errorf("the identity belongs to %d", owner.Uid)
	}
}

// public returns a directory that every account can enter.
func public(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}
