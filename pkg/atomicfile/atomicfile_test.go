package atomicfile_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

func TestWriteReplacesContentAndPermissions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	for _, tc := range []struct {
		content string
		perm    fs.FileMode
	}{{"first", 0o644}, {"the second is longer", 0o600}, {"", 0o640}, {"x", 0o666}} { // 0666: the umask does not count
		if err := atomicfile.Write(path, []byte(tc.content), tc.perm); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(data) != tc.content || info.Mode() != tc.perm {
			t.Errorf("%q with mode %v, want %q with %v", data, info.Mode(), tc.content, tc.perm)
		}
	}
	wantFiles(t, filepath.Dir(path), "file")
}

// wantFiles checks that a directory holds these files and nothing temporary.
func wantFiles(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// Whoever reads meanwhile sees the old content or the new, never a part.
func TestReadersSeeWholeFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	contents := []string{strings.Repeat("a", 1<<16), strings.Repeat("b", 3<<16)}
	if err := atomicfile.Write(path, []byte(contents[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			data, err := os.ReadFile(path)
			if err != nil || string(data) != contents[0] && string(data) != contents[1] {
				t.Errorf("read %d bytes: %v", len(data), err)
				return
			}
		}
	})
	for i := range 50 {
		if err := atomicfile.Write(path, []byte(contents[i%2]), 0o600); err != nil {
			t.Error(err)
		}
	}
	close(done)
	reader.Wait()
}

func TestFailedWriteLeavesEverythingAsItWas(t *testing.T) {
	// Not parallel: the limit on file sizes is that of the process.
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := atomicfile.Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4096, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	err := atomicfile.Write(path, make([]byte, 8192), 0o600)
	if e := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), path) {
		t.Errorf("error is %v, want one that names the file", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "old" {
		t.Errorf("the file holds %q (%v)", data, err)
	}
	wantFiles(t, dir, "file")
}

func TestWriteWhereItCannot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "taken", "by-a-directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"no directory": filepath.Join(dir, "missing", "file"),
		"a directory":  filepath.Join(dir, "taken"),
	} {
		if err := atomicfile.Write(path, []byte("x"), 0o600); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error is %v, want one that names the file", name, err)
		}
	}
	wantFiles(t, dir, "taken")
	if err := atomicfile.SyncDir(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("syncing what is not there: %v", err)
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, inner} {
		for _, name := range []string{".tmp-file-123", "file", ".hidden"} {
			if err := os.WriteFile(filepath.Join(d, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := atomicfile.Sweep(dir, inner, filepath.Join(dir, "missing")); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, ".hidden", "file", "inner")
	wantFiles(t, inner, ".hidden", "file")

	stays := filepath.Join(dir, ".tmp-dir")
	if err := os.MkdirAll(filepath.Join(stays, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Sweep(dir); err == nil || !strings.Contains(err.Error(), stays) {
		t.Errorf("error is %v, want one that names what stays", err)
	}
}

// A link that lies in the place of a file, or of what becomes one, leads nowhere.
func TestLinksAreReplaced(t *testing.T) {
	t.Parallel()
	outside, dir := t.TempDir(), t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "file")
	if err := os.Symlink(victim, path); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantContent(t, path, "new")
	wantContent(t, victim, "untouched")

	if err := os.Symlink(outside, filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	err = atomicfile.ReplaceIn(root, "sub/victim", strings.NewReader("new"), atomicfile.Attributes{Mode: 0o600})
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "sub/victim")) {
		t.Errorf("error is %v, want one that names the file", err)
	}
	wantContent(t, victim, "untouched")
	wantFiles(t, outside, "victim")
}

func wantContent(t testing.TB, path, want string) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		t.Fatalf("%s: %v, %v", path, info, err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != want {
		t.Errorf("%s holds %q (%v), want %q", path, data, err, want)
	}
}

func TestReplaceInGivesOwnerAndMode(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	a := atomicfile.Attributes{Mode: 0o640, Owner: &atomicfile.Owner{UID: 4242, GID: 4243}}
	if err := atomicfile.ReplaceIn(root, "sub/file", strings.NewReader("x"), a); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "sub/file"))
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || s.Uid != 4242 || s.Gid != 4243 || info.Mode() != 0o640 {
		t.Errorf("it belongs to %v, mode %v", info.Sys(), info.Mode())
	}
	wantFiles(t, filepath.Join(dir, "sub"), "file")
}

func TestContentThatFails(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := atomicfile.Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	errTorn := errors.New("torn")
	content := io.MultiReader(strings.NewReader("the first part"), iotest.ErrReader(errTorn))
	if err := atomicfile.Replace(path, content, atomicfile.Attributes{Mode: 0o600}); !errors.Is(err, errTorn) {
		t.Errorf("error is %v", err)
	}
	wantContent(t, path, "old")
	wantFiles(t, filepath.Dir(path), "file")
}

func TestLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "current")
	for _, target := range []string{"a", "b", "/c/../d"} {
		if err := atomicfile.Link(target, path); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(path); err != nil || got != target {
			t.Errorf("it leads to %q (%v), want %q", got, err, target)
		}
	}
	wantFiles(t, dir, "current")
	if err := os.MkdirAll(filepath.Join(dir, "taken", "by-a-directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Link("a", filepath.Join(dir, "taken")); err == nil {
		t.Error("a directory was replaced")
	}
	wantFiles(t, dir, "current", "taken")
}

func TestDiscard(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	others := []string{".tmp-", ".tmp-a-b", ".tmp-a-b-ABC", ".tmp-a-b-c-ABC", ".tmp-a.b", "a", "a-ABC"}
	for _, name := range append([]string{".tmp-a", ".tmp-a-ABC234", ".tmp-a-1234567"}, others...) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := atomicfile.Discard(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, others...)
	if err := atomicfile.Discard(filepath.Join(dir, "missing", "a")); err != nil {
		t.Error(err)
	}
}
