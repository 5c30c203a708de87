//go:build linux

package durability_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/test/wait"
)

// imageSize holds a server's data and leaves a copy quick.
const imageSize = 96 << 20

// disk is an ext4 file system on a loop device. What reaches the image is what
// reaches a real disk: data that is only in the page cache is not there.
type disk struct {
	t testing.TB
	// Dir is where it is mounted.
	Dir string

	image   string
	mounted bool
	cuts    int
}

// loopControl is how loop devices are asked for.
const loopControl = "/dev/loop-control"

// supported reports with errors.ErrUnsupported what keeps this host from
// having disks.
func supported() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: run as root", errors.ErrUnsupported)
	}
	if _, err := os.Stat(loopControl); err != nil {
		return fmt.Errorf("%w: no loop devices: %w", errors.ErrUnsupported, err)
	}
	for _, tool := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		}
	}
	return nil
}

// newDisk makes an empty disk that is gone after the test. It skips where
// there can be none, except in CI, which has to have one.
func newDisk(t testing.TB) *disk {
	t.Helper()
	if err := supported(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	d := &disk{t: t, Dir: filepath.Join(dir, "disk"), image: filepath.Join(dir, "image-0")}
	must(t, os.Mkdir(d.Dir, 0o700))
	must(t, os.WriteFile(d.image, nil, 0o600))
	must(t, os.Truncate(d.image, imageSize))
	run(t, "mkfs.ext4", "-q", "-F", d.image)
	d.mount()
	t.Cleanup(d.unmount)
	return d
}

func (d *disk) mount() {
	d.t.Helper()
	run(d.t, "mount", "-o", "loop", d.image, d.Dir)
	d.mounted = true
}

func (d *disk) unmount() {
	d.t.Helper()
	if d.mounted {
		run(d.t, "umount", d.Dir)
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
	// The kernel may still be writing. A copy that is the same as its original
	// afterwards is what was there at one moment.
	for copied := false; !copied; {
		run(d.t, "cp", "--sparse=always", d.image, taken)
		copied = same(d.t, d.image, taken)
	}
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

// same reports whether two files have the same content.
func same(t testing.TB, one, other string) bool {
	t.Helper()
	a, err := os.Open(one)
	must(t, err)
	defer a.Close()
	b, err := os.Open(other)
	must(t, err)
	defer b.Close()
	const chunk = 1 << 20
	x, y := make([]byte, chunk), make([]byte, chunk)
	for {
		n, err := io.ReadFull(a, x)
		m, _ := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return true
		}
		must(t, err)
	}
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	// Not the test's context: it has ended when the disk is unmounted.
	out, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
