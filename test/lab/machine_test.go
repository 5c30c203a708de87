//go:build linux

package lab_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/test/disk"
	"fleet.nationtech.io/fleet/test/lab"
)

func TestRun(t *testing.T) {
	t.Parallel()
	l := open(t)
	m := boot(t, l, lab.Config{Name: "run", Binds: []lab.Bind{{Source: "/etc/debian_version", Target: "/srv/bound", ReadOnly: true}}})
	must(t, m, "useradd", "--create-home", "worker")
	tests := []struct {
		name string
		user string
		args []string
		want lab.Result
	}{
		{"output and errors apart", "root", []string{"sh", "-c", "echo out; echo err >&2"}, lab.Result{Stdout: "out\n", Stderr: "err\n"}},
		{"exit status", "root", []string{"sh", "-c", "exit 7"}, lab.Result{ExitCode: 7}},
		{"arguments stay whole", "root", []string{"printf", "%s|", "a b", "$HOME", ""}, lab.Result{Stdout: "a b|$HOME||"}},
		{"host name", "root", []string{"hostname"}, lab.Result{Stdout: "run\n"}},
		{"user", "worker", []string{"id", "-un"}, lab.Result{Stdout: "worker\n"}},
		{"bind is read-only", "root", []string{"sh", "-c", "test -s /srv/bound && ! touch /srv/bound 2>/dev/null"}, lab.Result{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := m.RunAs(t.Context(), tt.user, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}

	_, err := m.Output(t.Context(), "sh", "-c", "echo reason >&2; exit 3")
	var exit *lab.ExitError
	if !errors.As(err, &exit) || exit.ExitCode != 3 || !strings.Contains(err.Error(), "reason") {
		t.Errorf("Output of a failing command: got error %v", err)
	}
}

func TestRunEndsWithContext(t *testing.T) {
	t.Parallel()
	m := boot(t, open(t), lab.Config{Name: "context"})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := m.Run(ctx, "sleep", "infinity"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want the context's", err)
	}
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	l := open(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := boot(t, l, lab.Config{Name: "life-" + suite, Suite: suite})
			id := must(t, m, "cat", "/etc/machine-id")
			must(t, m, "sh", "-c", "echo kept > /var/lib/fleet-agent/mark; echo kept > /srv/mark")
			steps := []struct {
				name string
				do   func(context.Context) error
			}{
				{"reboot", m.Reboot},
				{"power cut", func(ctx context.Context) error { return errors.Join(m.PowerCut(ctx), m.Start(ctx)) }},
				{"reboot from within", func(ctx context.Context) error { return rebootFromWithin(ctx, t, m) }},
				{"stop and start", func(ctx context.Context) error { return errors.Join(m.Stop(ctx), m.Start(ctx)) }},
			}
			boots := map[string]bool{must(t, m, "cat", "/proc/sys/kernel/random/boot_id"): true}
			for _, step := range steps {
				if err := step.do(t.Context()); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				if got := must(t, m, "cat", "/var/lib/fleet-agent/mark", "/srv/mark"); got != "kept\nkept\n" {
					t.Errorf("after %s: files are %q", step.name, got)
				}
				if got := must(t, m, "cat", "/etc/machine-id"); got != id {
					t.Errorf("after %s: machine id %q, was %q", step.name, got, id)
				}
				boots[must(t, m, "cat", "/proc/sys/kernel/random/boot_id")] = true
			}
			if want := len(steps) + 1; len(boots) != want {
				t.Errorf("%d boot ids after %d boots", len(boots), want)
			}
		})
	}
}

// TestAPowerCutLosesWhatDidNotReachTheDisk: what was not synced is lost, the rest is there.
// The root of the machine, which is the host's, shows that it was written.
func TestAPowerCutLosesWhatDidNotReachTheDisk(t *testing.T) {
	t.Parallel()
	if err := disk.Supported(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	m := boot(t, open(t), lab.Config{Name: "disk", Disk: 64 << 20})
	must(t, m, "sh", "-c", "cd /var/lib/fleet-agent; echo kept >synced; sync synced .; cd ../fleet-workload; echo lost >written; echo kept >/srv/written")
	if err := errors.Join(m.PowerCut(t.Context()), m.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := must(t, m, "sh", "-c", "cat /var/lib/fleet-agent/synced /var/lib/fleet-workload/written /srv/written 2>/dev/null || true"); got != "kept\nkept\n" {
		t.Errorf("after a power cut there is %q", got)
	}
	must(t, m, "sh", "-c", "echo kept >/var/lib/fleet-workload/written")
	if err := m.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := must(t, m, "cat", "/var/lib/fleet-agent/synced", "/var/lib/fleet-workload/written"); got != "kept\nkept\n" {
		t.Errorf("after a reboot there is %q", got)
	}
}

// rebootFromWithin lets the machine reboot by itself and waits for its new boot id.
func rebootFromWithin(ctx context.Context, t *testing.T, m *lab.Machine) error {
	t.Helper()
	bootID := []string{"cat", "/proc/sys/kernel/random/boot_id"}
	before := must(t, m, bootID...)
	if _, err := m.Run(ctx, "systemctl", "--no-block", "reboot"); err != nil {
		return err
	}
	eventually(t, "the machine is back", func() bool {
		r, err := m.Run(ctx, bootID...)
		return err == nil && r.ExitCode == 0 && r.Stdout != before
	})
	return nil
}

func TestStoppedMachineRefusesCommands(t *testing.T) {
	t.Parallel()
	m := boot(t, open(t), lab.Config{Name: "stopped"})
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Run(t.Context(), "true"); err == nil || !strings.Contains(err.Error(), "the machine is off") {
		t.Errorf("got error %v", err)
	}
}

func TestBootRefusesBadNames(t *testing.T) {
	t.Parallel()
	l := open(t)
	for _, name := range []string{"", "-a", "a/b", "..", "UPPER", strings.Repeat("a", 41)} {
		if _, err := l.Boot(t.Context(), lab.Config{Name: name}); err == nil {
			t.Errorf("a machine named %q booted", name)
		}
	}
}

func TestNamesAreUnique(t *testing.T) {
	t.Parallel()
	l := open(t)
	m := boot(t, l, lab.Config{Name: "unique"})
	if _, err := l.Boot(t.Context(), lab.Config{Name: m.Name}); !errors.Is(err, lab.ErrExists) {
		t.Errorf("a second machine: got error %v, want ErrExists", err)
	}
	if _, err := l.Attach(t.Context(), m.Name); !errors.Is(err, lab.ErrInUse) {
		t.Errorf("attaching to a machine in use: got error %v, want ErrInUse", err)
	}
	if _, err := l.Attach(t.Context(), "absent"); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("attaching to no machine: got error %v, want ErrNotFound", err)
	}
}

func TestDetachedMachineIsFoundAgain(t *testing.T) {
	t.Parallel()
	l := open(t)
	config := lab.Config{Name: "detached", Detached: true, Binds: []lab.Bind{{Source: "/etc/debian_version", Target: "/srv/bound"}}}
	m, err := l.Boot(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	boot := must(t, m, "cat", "/proc/sys/kernel/random/boot_id")
	if err := m.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := open(t).Attach(t.Context(), "detached") // opening sweeps, and must leave it alone
	if err != nil {
		t.Fatal(err)
	}
	if got := must(t, again, "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Error("the machine was booted again")
	}
	if err := again.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	must(t, again, "test", "-s", "/srv/bound")
	if err := again.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Attach(t.Context(), "detached"); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("after Destroy: got error %v, want ErrNotFound", err)
	}
}

// TestLeftoversAreSwept abandons a machine as a killed process does, and
// looks for traces of it on the host.
func TestLeftoversAreSwept(t *testing.T) {
	t.Parallel()
	l := open(t)
	m, err := l.Boot(t.Context(), lab.Config{Name: "leftover"})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Release(); err != nil { // as the kernel does for a dead process
		t.Fatal(err)
	}
	if got := traces(t, "leftover"); len(got) == 0 {
		t.Fatal("a running machine leaves no trace: this test looks in the wrong places")
	}
	if err := l.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := traces(t, "leftover"); len(left) != 0 {
		t.Errorf("after the sweep: %q", left)
	}
}

// traces lists processes, mounts, cgroups and directories of a machine.
func traces(t *testing.T, name string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "pgrep", "--full", "--list-full", "machine="+name+" ").Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	found := strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/machines/"+name+"/") {
			found = append(found, line)
		}
	}
	for _, pattern := range []string{
		"/sys/fs/cgroup/fleet-lab-*-" + name, "/sys/fs/cgroup/unified/fleet-lab-*-" + name, "../../.cache/lab/machines/" + name,
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	return found
}

// TestHostStaysAsItIs compares what a machine could change on the host.
func TestHostStaysAsItIs(t *testing.T) {
	l := open(t)
	before := hostState(t)
	m := boot(t, l, lab.Config{Name: "host-state"})
	if diff := cmp.Diff(before, hostState(t)); diff != "" {
		t.Errorf("while the machine runs: %s", diff)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, hostState(t)); diff != "" {
		t.Errorf("after the machine: %s", diff)
	}
}

func hostState(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, file := range []string{"/proc/self/mounts", "/proc/sys/net/ipv4/ping_group_range", "/proc/sys/net/ipv4/conf/all/rp_filter"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		state[file] = string(content)
	}
	for _, dev := range []string{"/dev/net/tun", "/dev/fuse"} {
		info, err := os.Stat(dev)
		if err != nil {
			t.Fatal(err)
		}
		state[dev] = info.Mode().String()
	}
	links, err := exec.CommandContext(t.Context(), "ip", "-brief", "link").Output()
	if err != nil {
		t.Fatal(err)
	}
	state["links"] = string(links)
	return state
}
