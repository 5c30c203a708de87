package hostinstall_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
)

func TestTrees(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("/data/state.db", "1")
	m.write("/data/pki/root.key", "key")
	m.write("/data/nats/stream", "bus")
	m.write("/data/pki/\xff\xfe", "not UTF-8")
	if err := os.Symlink("/etc/passwd", filepath.Join(m.Root, "/data/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(m.Root, "/data/pki/root.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(m.Root, "data/s"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	skip := func(name string) bool { return name == "nats" }
	if err := m.CopyTree("/data", "/saved", skip); err != nil {
		t.Fatal(err)
	}
	if m.read("/saved/state.db") != "1" || m.read("/saved/pki/\xff\xfe") != "not UTF-8" || m.read("/saved/nats/stream") != "" {
		t.Errorf("the copy is %v", m.tree())
	}
	info, err := m.Lstat("/saved/pki/root.key")
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, the key has mode %v", err, info.Mode())
	}
	if target, err := os.Readlink(filepath.Join(m.Root, "/saved/link")); target != "/etc/passwd" {
		t.Errorf("%v, the link leads to %q", err, target)
	}
	// What came later goes; what was skipped stays; twice is once.
	m.write("/data/state.db", "2")
	m.write("/data/new", "2")
	m.write("/data/nats/stream", "newer bus")
	for range 2 {
		if err := m.ReplaceTree("/saved", "/data", skip); err != nil {
			t.Fatal(err)
		}
	}
	if m.read("/data/state.db") != "1" || m.read("/data/new") != "" || m.read("/data/nats/stream") != "newer bus" || m.read("/data/pki/root.key") != "key" {
		t.Errorf("restored is %v", m.tree())
	}
	kept, err := m.EmptyTree("/data", func(path string) bool { return path == "/data/pki/root.key" })
	if diff := cmp.Diff([]string{"/data/pki/root.key"}, kept); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if m.read("/data/pki/root.key") != "key" || m.read("/data/state.db") != "" {
		t.Errorf("left is %v", m.tree())
	}
}

var _ hostinstall.Host = hostinstall.OS{}
