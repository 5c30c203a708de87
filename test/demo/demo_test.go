//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/test/lab"
)

// open returns a lab, with the repository as the working directory. It skips
// where machines cannot run, except in CI.
func open(t *testing.T) *lab.Lab {
	t.Helper()
	t.Chdir(filepath.Join("..", ".."))
	l, err := lab.Open(t.Context(), lab.Options{Progress: t.Output()})
	if errors.Is(err, lab.ErrUnsupported) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestDemo runs the demo as a person does: twice, with a look at the page, and
// down again.
func TestDemo(t *testing.T) {
	open(t)
	dir := filepath.Join(t.TempDir(), "demo")
	demo := func(command string) string {
		var out strings.Builder
		err := run(context.WithoutCancel(t.Context()), []string{command, "--dir", dir}, io.MultiWriter(&out, t.Output()), t.Output())
		if err != nil {
			t.Errorf("demo %s: %v", command, err)
		}
		return out.String()
	}
	t.Cleanup(func() {
		demo("down")
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the demo's directory is left: %v", err)
		}
		if page, err := get(context.WithoutCancel(t.Context()), pageURL()); err == nil {
			t.Errorf("the container answers after down: %q", page)
		}
	})
	checkTwoRuns(t, demo)
}

// TestDemoWithoutRoot runs the demo as an ordinary user of a machine, in place
// of a developer's workstation.
func TestDemoWithoutRoot(t *testing.T) {
	m := workstationMachine(t)
	demo := func(command string) string {
		r, err := m.RunAs(t.Context(), "dev", "sh", "-c", `cd /srv/fleet && exec /srv/bin/demo "$1" --dir "$HOME/demo"`, "sh", command)
		if err != nil || r.ExitCode != 0 {
			t.Errorf("demo %s: %v: %s%s", command, err, r.Stdout, r.Stderr)
		}
		return r.Stdout
	}
	checkTwoRuns(t, demo)
	demo("down")
	if left, err := m.OutputAs(t.Context(), "dev", "podman", "ps", "--all", "--quiet"); err != nil || left != "" {
		t.Errorf("containers after down: %q, %v", left, err)
	}
	if left, err := m.Run(t.Context(), "pgrep", "-a", "-u", "dev", "fleet"); err != nil || left.Stdout != "" {
		t.Errorf("processes after down: %q, %v", left.Stdout, err)
	}
}

// workstationMachine boots a machine with the user dev, the repository and the
// demo's program.
func workstationMachine(t *testing.T) *lab.Machine {
	t.Helper()
	l := open(t)
	repo, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./test/demo").CombinedOutput(); err != nil {
		t.Fatalf("building the demo: %v: %s", err, out)
	}
	m, err := l.Boot(t.Context(), lab.Config{Name: "workstation", Binds: []lab.Bind{
		{Source: repo, Target: "/srv/fleet", ReadOnly: true},
		{Source: bin, Target: "/srv/bin", ReadOnly: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Destroy(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if _, err := m.Output(t.Context(), "sh", "-ec", prepareWorkstation); err != nil {
		t.Fatal(err)
	}
	return m
}

// prepareWorkstation makes a user with a systemd session. The lab's machines
// lack the pids controller on some hosts, see packaging/libexec/setup-user.
const prepareWorkstation = `
	useradd --create-home dev
	loginctl enable-linger dev
	systemctl start "user@$(id -u dev).service"
	install -d -o dev -g dev /home/dev/.config /home/dev/.config/containers
	grep -qw pids /sys/fs/cgroup/cgroup.controllers ||
		printf '[containers]\npids_limit = 0\n' >/home/dev/.config/containers/containers.conf`

func checkTwoRuns(t *testing.T, demo func(command string) string) {
	t.Helper()
	checkSummary(t, demo("up"))
	start := time.Now()
	again := demo("up")
	checkSummary(t, again)
	if !strings.Contains(again, "enrolled already") {
		t.Error("the second run enrolled again")
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("the second run took %s", took)
	}
}

// checkSummary looks for what a person looks for: the page, the device and the
// deployment.
func checkSummary(t *testing.T, out string) {
	t.Helper()
	for _, want := range []string{"Hello from " + lab.HelloImage, deviceName, "PodmanV0", "make demo-down"} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo doesn't print %q", want)
		}
	}
}
