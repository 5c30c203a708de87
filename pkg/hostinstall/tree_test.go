package hostinstall_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

func TestMergeTree(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ saved, present, want string }{
		"more lines now":     {"1\n", "1\n2\n", "1\n2\n"},
		"fewer lines now":    {"1\n2\n", "2\n3\n", "1\n2\n3\n"},
		"emptied":            {"1\n", "", "1\n"},
		"half a line at end": {"1\n2\n", "1\n3", "2\n1\n"},
		"the same":           {"1\n", "1\n", "1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.write("/saved/keys.jsonl", tt.saved)
			m.write("/data/keys.jsonl", tt.present)
			m.write("/saved/term", "1")
			m.write("/data/term", "2")
			m.write("/saved/pki/old.key", "lost")
			m.write("/data/pki/new.key", "made since")
			m.write("/saved/lost.json", "lost")
			m.write("/saved/other", "not named")
			for range 2 {
				if err := m.MergeTree("/saved", "/data", []string{"keys.jsonl", "term", "pki", "lost.json", "none"}); err != nil {
					t.Fatal(err)
				}
			}
			for path, want := range map[string]string{
				"/data/keys.jsonl": tt.want, "/data/term": "2", "/data/pki/old.key": "lost", "/data/pki/new.key": "made since", "/data/lost.json": "lost", "/data/other": "",
			} {
				if got := m.read(path); got != want {
					t.Errorf("%s is %q, want %q", path, got, want)
				}
			}
		})
	}
}

func TestMergeTreeReadsNoEndlessFile(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("/saved/keys.jsonl", "1\n")
	m.write("/data/keys.jsonl", "")
	if err := os.Truncate(filepath.Join(m.Root, "/data/keys.jsonl"), 1<<34); err != nil {
		t.Fatal(err)
	}
	if err := m.MergeTree("/saved", "/data", []string{"keys.jsonl"}); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}

// Whoever owns the directory may have put links where something is written.
func TestTreesFollowNoLinks(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("/saved/keys.jsonl", "1\n")
	m.write("/saved/pki/root.key", "key")
	m.write("/etc/precious", "whole")
	m.mkdir("/data")
	for _, name := range []string{".restore", "keys.jsonl", "keys.jsonl.next", "pki"} {
		target := filepath.Join(m.Root, "/etc")
		if name != "pki" && name != ".restore" {
			target += "/precious"
		}
		if err := os.Symlink(target, filepath.Join(m.Root, "/data", name)); err != nil {
			t.Fatal(err)
		}
	}
	_ = m.MergeTree("/saved", "/data", []string{"keys.jsonl", "pki"}) // it may fail
	if err := m.ReplaceTree("/saved", "/data", nil); err != nil {
		t.Fatal(err)
	}
	if entries, err := m.ReadDir("/etc"); err != nil || m.read("/etc/precious") != "whole" || len(entries) != 2 { // and systemd
		t.Errorf("%v: %v is left of /etc", err, entries)
	}
	if m.read("/data/keys.jsonl") != "1\n" || m.read("/data/pki/root.key") != "key" {
		t.Errorf("restored is %v", m.tree())
	}
}

// The account that owns the data must not enter what root is writing: by a second
// name of a file it would have that given to itself.
func TestNobodyEntersWhatIsRestored(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write("/saved/state.db", "1")
	m.mkdir("/data")
	for _, dir := range []string{"/saved", "/data"} {
		if err := os.Chmod(filepath.Join(m.Root, dir), 0o777); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(filepath.Join(m.Root, dir), 4242, 4242); err != nil {
				t.Fatal(err)
			}
		}
	}
	var looked bool
	look := func(name string) bool {
		info, err := m.Lstat("/data/.restore")
		if err != nil {
			return false // not yet, or not any more
		}
		looked = true
		if s, ok := info.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() || info.Mode().Perm() != 0o700 {
			t.Errorf("while %s is restored its directory has mode %s, and belongs to %d", name, info.Mode(), s.Uid)
		}
		return false
	}
	if err := m.ReplaceTree("/saved", "/data", look); err != nil || !looked || m.read("/data/state.db") != "1" {
		t.Errorf("%v, looked %t: %v", err, looked, m.tree())
	}
}

// TestDeepTrees: an account can make directories in directories for ever.
func TestDeepTrees(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	const fits, deep = 60, 70
	m.write("/data"+strings.Repeat("/d", fits)+"/file", "1")
	none := func(string) bool { return false }
	if _, err := m.Digest("/data", nil); err != nil {
		t.Error(err)
	}
	m.write("/data"+strings.Repeat("/d", deep)+"/file", "1")
	_, digestErr := m.Digest("/data", nil)
	_, emptyErr := m.EmptyTree("/data", none)
	for what, err := range map[string]error{"digest": digestErr, "copy": m.CopyTree("/data", "/saved", nil), "empty": emptyErr} {
		if err == nil || !strings.Contains(err.Error(), "rm -r") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	digest := func() string {
		t.Helper()
		sum, err := m.Digest("/data", func(name string) bool { return name == "nats" })
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	if got := digest(); got != "" {
		t.Errorf("nothing has the digest %s", got)
	}
	seen := map[string]bool{}
	for _, change := range []func(){
		func() { m.write("/data/a", "1") },
		func() { m.write("/data/a", "2") },
		func() { m.write("/data/b/a", "2") },
		func() { m.write("/data/b/c", "") },
	} {
		change()
		if sum := digest(); seen[sum] {
			t.Errorf("a change keeps the digest: %v", m.tree())
		} else {
			seen[sum] = true
		}
	}
	m.write("/data/nats/stream", "bus")
	if err := m.CopyTree("/data", "/saved", func(name string) bool { return name == "nats" }); err != nil {
		t.Fatal(err)
	}
	if saved, err := m.Digest("/saved", nil); err != nil || saved != digest() {
		t.Errorf("the copy has another digest (%v)", err)
	}
}

var _ hostinstall.Host = hostinstall.OS{}
