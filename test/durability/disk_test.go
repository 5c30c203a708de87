//go:build linux

package durability_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	disks "fleet.nationtech.io/fleet/test/disk"
	"fleet.nationtech.io/fleet/test/wait"
)

// imageSize holds a server's data and leaves a copy quick.
const imageSize = 96 << 20

// disk is a file system that loses what a power cut loses.
type disk struct {
	t testing.TB
	// Dir is where it is mounted.
	Dir string

	image   string
	mounted bool
	cuts    int
}

// newDisk makes an empty disk that is gone after the test. It skips where
// there can be none, except in CI, which has to have one.
func newDisk(t testing.TB) *disk {
	t.Helper()
	if err := disks.Supported(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	d := &disk{t: t, Dir: filepath.Join(dir, "disk"), image: filepath.Join(dir, "image-0")}
	must(t, os.Mkdir(d.Dir, 0o700))
	must(t, disks.Format(t.Context(), d.image, imageSize, ""))
	d.mount()
	t.Cleanup(d.unmount)
	return d
}

func (d *disk) mount() {
	d.t.Helper()
	must(d.t, disks.Mount(d.t.Context(), d.image, d.Dir))
	d.mounted = true
}

func (d *disk) unmount() {
	d.t.Helper()
	if d.mounted {
		must(d.t, disks.Unmount(context.Background(), d.Dir)) // the test's context may have ended
		d.mounted = false
	}
}

// cut cuts the power: it stops a process, takes the disk as it is at that
// moment, ends the process with end, and mounts what was taken instead.
func (d *disk) cut(pid int, end func()) {
	d.t.Helper()
	must(d.t, syscall.Kill(pid, syscall.SIGSTOP))
	wait.For(d.t, "stopping the process", 10*time.Second, time.Millisecond, func() error { return stopped(pid) })
	d.cuts++
	taken := filepath.Join(filepath.Dir(d.image), fmt.Sprintf("image-%d", d.cuts))
	must(d.t, disks.Take(d.t.Context(), d.image, taken))
	end()
	d.unmount()
	must(d.t, os.Remove(d.image))
	d.image = taken
	d.mount()
}

// stopped returns nil when every thread of a process has stopped.
func stopped(pid int) error {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return fmt.Errorf("process %d has no threads: %w", pid, err)
	}
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if err != nil {
			return err
		}
		_, state, _ := strings.Cut(string(data), ") ")
		if !strings.HasPrefix(state, "T") {
			return fmt.Errorf("%s says %.20q", stat, state)
		}
	}
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
