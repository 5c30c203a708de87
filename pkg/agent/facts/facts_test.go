package facts_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/facts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, root, path, content string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCollect(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, "usr/lib/os-release", "# a comment\nID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n")
	write(t, root, "proc/meminfo", "MemFree:  1 kB\nMemTotal:       2097152 kB\nMemAvailable:   1048576 kB\n")
	write(t, root, "etc/machine-id", "0123456789abcdef\n")
	got := facts.Collect(root)
	if got.OS != "debian" || got.OSVersion != "13" || got.MemoryMiB != 2048 || got.CPUCores < 1 || got.Kernel == "" || got.Arch == "" {
		t.Errorf("got %+v", got)
	}
	if size, available := facts.Memory(root); size != 2<<30 || available != 1<<30 {
		t.Errorf("%d bytes of memory, %d available", size, available)
	}
	if id := facts.MachineID(root); id != "0123456789abcdef" {
		t.Errorf("machine id %q", id)
	}
}

func TestNothingToReadIsNoFailure(t *testing.T) {
	t.Parallel()
	got := facts.Collect(t.TempDir())
	if size, available := facts.Memory(t.TempDir()); got.OS != "" || got.MemoryMiB != 0 || size != 0 || available != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestDisk(t *testing.T) {
	t.Parallel()
	d, err := facts.Disk(t.TempDir())
	if err != nil || d.Size == 0 || d.Used > d.Size || d.ReadOnly {
		t.Errorf("got %+v: %v", d, err)
	}
}
