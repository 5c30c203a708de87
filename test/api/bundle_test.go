package api_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fleet.nationtech.io/fleet/test/releasetest"
)

// Root imports and pushes with the rights of the server's user: what it writes
// belongs to that user, and what that user left there leads it nowhere.
func TestRootWritesAsTheOwnerOfTheDataDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("this is about root")
	}
	const nobody = 65534
	maker, err := releasetest.NewMaker()
	must(t, err)
	files, err := maker.Files("1.0.0")
	must(t, err)
	source := t.TempDir()
	must(t, maker.Write(source, files))
	must(t, os.Chmod(filepath.Dir(source), 0o700)) // nobody else reads what root imports
	// The way to the data directory is open to its owner.
	base, err := os.MkdirTemp("/var/tmp", "fleet-owner-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(base)) })
	must(t, os.Chmod(base, 0o755))
	imports := func(prepare func(dir string)) (string, error) {
		dir := filepath.Join(base, "data")
		must(t, os.RemoveAll(dir))
		must(t, os.Mkdir(dir, 0o700))
		prepare(dir)
		must(t, os.Chown(dir, nobody, nobody))
		out, err := exec.CommandContext(t.Context(), binary(t), "bundle", "import", "--data-dir", dir, "--release-key", filepath.Join(source, "release.pub"), source).CombinedOutput()
		return string(out), err
	}
	if out, err := imports(func(string) {}); err != nil {
		t.Fatal(out)
	}
	err = filepath.WalkDir(filepath.Join(base, "data"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Sys().(*syscall.Stat_t).Uid != nobody {
			t.Errorf("%s belongs to another", path)
		}
		return err
	})
	must(t, err)
	outside := filepath.Join(base, "outside")
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.Mkdir(filepath.Join(outside, "kept"), 0o755))
	if out, err := imports(func(dir string) { must(t, os.Symlink(outside, filepath.Join(dir, "release"))) }); err == nil || strings.Count(out, "\n") != 1 {
		t.Errorf("a link leads elsewhere: %v %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(outside, "kept")); err != nil {
		t.Error(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
