package resolv_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/resolv"
)

// machine has the files of a device with containers.
type machine struct {
	t     *testing.T
	dir   string
	files resolv.Files
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	return &machine{t: t, dir: dir, files: resolv.Files{
		Device: filepath.Join(dir, "resolv.conf"), Upstream: filepath.Join(dir, "upstream"), Containers: dir, Before: filepath.Join(dir, "before"),
	}}
}

func (m *machine) container(name string) string {
	return filepath.Join(m.dir, "overlay-containers", name, "userdata", "resolv.conf")
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) holds(path, want string) {
	m.t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		m.t.Errorf("%s holds %q, %v, want %q", path, got, err, want)
	}
}

func TestFilesFollow(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	a, b, c := m.container("a"), m.container("b"), m.container("c")
	m.write(a, "search "+strings.Repeat("long.test ", 20)+"\nnameserver 169.254.1.1\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n")
	m.write(b, "nameserver 9.9.9.9\n")
	m.write(c, "nameserver 2001:db8::1\n")
	before, err := os.Stat(a)
	if err != nil {
		t.Fatal(err)
	}
	follow := func() {
		t.Helper()
		if _, err := m.files.Sync(); err != nil {
			t.Fatal(err)
		}
		if changed, err := m.files.Sync(); err != nil || changed {
			t.Errorf("once more it changes %t, %v", changed, err)
		}
	}
	follow() // the device has none
	m.write(m.files.Device, "nameserver 192.168.1.1\nnameserver 2001:db8::1\n")
	follow()
	m.holds(a, pasta+"nameserver 192.168.1.1\nnameserver 2001:db8::1\n")
	m.holds(b, "nameserver 9.9.9.9\n")
	if after, err := os.Stat(a); err != nil || !os.SameFile(before, after) {
		t.Errorf("it is another file, which the container does not see: %v", err)
	}
	// As NetworkManager does it: a link to a file that takes the place of another.
	m.write(filepath.Join(m.dir, "next"), "nameserver 2001:db8::2\n")
	for _, err := range []error{os.Remove(m.files.Device), os.Symlink(filepath.Join(m.dir, "next"), m.files.Device)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	follow()
	m.holds(a, pasta+"nameserver 2001:db8::2\n")
	m.holds(c, header+"\nnameserver 2001:db8::2\n")
}

// TestAChangeMeanwhile: a container started while the device changed, with what podman
// had read before.
func TestAChangeMeanwhile(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write(m.files.Device, "nameserver 192.168.1.1\n")
	late := m.container("late")
	synctest.Test(t, func(t *testing.T) {
		if _, err := m.files.Sync(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { m.write(late, "nameserver 169.254.1.1\nnameserver 8.8.8.8\n") })
		time.AfterFunc(4*time.Second, func() { m.write(m.files.Device, "nameserver 192.168.2.1\n") })
		if err := m.files.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	m.holds(late, pasta+"nameserver 192.168.2.1\n")
}

func TestFilesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write(m.files.Device, "nameserver 192.168.1.1\n")
	a, b := m.container("a"), m.container("b")
	target := filepath.Join(m.dir, "elsewhere")
	m.write(target, "nameserver 169.254.1.1\n")
	m.write(b, "nameserver 169.254.1.1\n")
	if err := os.MkdirAll(filepath.Dir(a), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, a); err != nil {
		t.Fatal(err)
	}
	if _, err := m.files.Sync(); err == nil || !strings.Contains(err.Error(), a) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.files.Settle(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	m.holds(target, "nameserver 169.254.1.1\n")
	m.holds(b, pasta+"nameserver 192.168.1.1\n")
}

// TestTheServerOfNamesFollows: what podman's own server of names reads follows, too, and it is
// told once for each change.
func TestTheServerOfNamesFollows(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	names, told := filepath.Join(m.dir, "names"), 0
	m.files.Networks = []string{names, filepath.Join(m.dir, "none")}
	m.files.Reload = func() error { told++; return nil }
	m.write(names, "nameserver 169.254.1.1\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n")
	m.write(m.files.Device, "nameserver 192.168.1.1\n")
	for range 2 {
		if _, err := m.files.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	m.holds(names, pasta+"nameserver 192.168.1.1\n")
	if told != 1 {
		t.Errorf("it was told %d times", told)
	}
}
