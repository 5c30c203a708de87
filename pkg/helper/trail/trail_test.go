package trail_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/helper/trail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func base(t *testing.T) string {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Join(base, "a/b"), 0o755), os.Symlink("a/../a", filepath.Join(base, "rel")),
			os.Symlink(filepath.Join(base, "rel/b"), filepath.Join(base, "abs")), os.Symlink("loop", filepath.Join(base, "loop")),
			os.WriteFile(filepath.Join(base, "file"), nil, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	return base
}

// TestWalkSeesWhatHereSees: whoever follows a path along a trail gets where the kernel
// leads.
func TestWalkSeesWhatHereSees(t *testing.T) {
	t.Parallel()
	base := base(t)
	for path, want := range map[string]string{
		"a/b": "a/b", "rel/b": "a/b", "abs": "a/b", "abs/../..": "", "a//./b/": "a/b", "none": "", "loop": "", "file/x": "",
	} {
		path = base + "/" + path
		seen := trail.Walk([]string{path})
		got, err := trail.Follow(seen, path, nil)
		direct, directErr := trail.Follow(trail.Here{}, path, nil)
		if got != direct || (err == nil) != (directErr == nil) || errors.Is(err, fs.ErrNotExist) != errors.Is(directErr, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v; without a trail %q, %v", path, got, err, direct, directErr)
		}
		if want != "" && got != filepath.Join(base, want) {
			t.Errorf("%s leads to %q, want %q: %v", path, got, want, err)
		}
	}
	if _, err := trail.Follow(trail.Trail{}, "/srv", nil); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what nobody looked at: %v", err)
	}
}

func TestFollowAsksTheGuard(t *testing.T) {
	t.Parallel()
	base := base(t)
	var asked []string
	_, err := trail.Follow(trail.Here{}, filepath.Join(base, "rel/none"), func(dir string, at, entry *trail.Entry) error {
		if !at.IsDir() {
			t.Errorf("%s is %+v", dir, at)
		}
		if rel, err := filepath.Rel(base, dir); err == nil && rel[0] != '.' || dir == base {
			asked = append(asked, rel+" "+string(entry.Fault))
		}
		return nil
	})
	if diff := cmp.Diff([]string{". ", ". ", ". ", "a absent"}, asked); diff != "" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v %s", err, diff)
	}
	refusal := errors.New("no")
	if _, err := trail.Follow(trail.Here{}, base, func(string, *trail.Entry, *trail.Entry) error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("got %v", err)
	}
}
