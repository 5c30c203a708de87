package files_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/files"
	"fleet.nationtech.io/fleet/pkg/interpreter"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// hand applies scores of one Deployment.
type hand struct {
	*files.Files

	t    *testing.T
	root string
	ref  wire.DeploymentRef
}

func newHand(t *testing.T) *hand {
	t.Helper()
	f, root := newFiles(t)
	return &hand{f, t, root, wire.DeploymentRef{Namespace: "shop", Name: "web"}}
}

// wants is a score of files with a path below the root and a content each.
func (h *hand) wants(pathsAndContents ...string) *interpreter.Wanted {
	h.t.Helper()
	var list []string
	for i := 0; i < len(pathsAndContents); i += 2 {
		list = append(list, fmt.Sprintf(`{"path":%q,"content":%q,%s}`, filepath.Join(h.root, pathsAndContents[i]), pathsAndContents[i+1], owners()))
	}
	data := `{"files":[` + strings.Join(list, ",") + `]}`
	return &interpreter.Wanted{Deployment: h.ref, Type: score.TypeFilesV0, Data: json.RawMessage(data), Mark: data}
}

func (h *hand) apply(pathsAndContents ...string) {
	h.t.Helper()
	h.must(h.Apply(h.t.Context(), h.wants(pathsAndContents...)))
}

func (h *hand) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// fails wants a plan and an attempt that say why not.
func (h *hand) fails(w *interpreter.Wanted, says string) {
	h.t.Helper()
	_, planned := h.Plan(h.t.Context(), w)
	applied := h.Apply(h.t.Context(), w)
	for _, err := range []error{planned, applied} {
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			h.t.Errorf("it says %v, want %q", err, says)
		}
	}
}

// has wants files below the root and nothing else: paths and contents.
func (h *hand) has(pathsAndContents ...string) {
	h.t.Helper()
	want, got := map[string]string{}, map[string]string{}
	for i := 0; i < len(pathsAndContents); i += 2 {
		want[pathsAndContents[i]] = pathsAndContents[i+1]
	}
	h.must(filepath.WalkDir(h.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		got[strings.TrimPrefix(path, h.root+"/")] = string(content)
		return err
	}))
	if fmt.Sprint(got) != fmt.Sprint(want) {
		h.t.Errorf("there is %q, want %q", got, want)
	}
}

func (h *hand) write(path, content string) {
	h.t.Helper()
	h.must(os.WriteFile(filepath.Join(h.root, path), []byte(content), 0o600))
}

func (h *hand) phase() interpreter.Observation {
	h.t.Helper()
	o, err := h.Observe(h.t.Context(), h.ref)
	h.must(err)
	return o
}

func (h *hand) remove() {
	h.t.Helper()
	h.must(h.Remove(h.t.Context(), h.ref, wire.RetainVolumes))
}

// What somebody put or changed is neither replaced nor deleted.
func TestFilesOfOthersAreLeft(t *testing.T) {
	t.Parallel()
	h := newHand(t)
	h.write("mine", "x")
	h.fails(h.wants("a", "1", "mine", "x"), "mine exists, and no Deployment put it: move it away")
	h.has("mine", "x")
	h.apply("a", "1", "b", "1")
	h.write("a", "edited")
	if o := h.phase(); o.Phase != wire.PhaseFailed || !strings.Contains(o.Reason, "a was changed on the device since it was put") {
		t.Errorf("it is %+v", o)
	}
	h.fails(h.wants("a", "2", "b", "2"), "a was changed on the device since it was put")
	h.has("a", "edited", "b", "1", "mine", "x")
	h.apply("b", "2") // which does not ask for a any more
	h.has("a", "edited", "b", "2", "mine", "x")
	h.apply("b", "2", "c", "3")
	h.write("c", "edited")
	h.remove()
	h.has("a", "edited", "c", "edited", "mine", "x")
}

func TestModeAndOwnerComeBack(t *testing.T) {
	t.Parallel()
	h := newHand(t)
	h.apply("a", "1")
	path := filepath.Join(h.root, "a")
	h.must(os.Chmod(path, 0o600))
	if o := h.phase(); o.Phase != wire.PhasePending {
		t.Errorf("it is %+v", o)
	}
	h.apply("a", "1")
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Directories that were made go with the last file of any Deployment in them.
func TestDirectoriesGoWithTheLastFile(t *testing.T) {
	t.Parallel()
	one := newHand(t)
	two := &hand{one.Files, t, one.root, wire.DeploymentRef{Namespace: "shop", Name: "other"}}
	one.must(os.Mkdir(filepath.Join(one.root, "kept"), 0o755))
	one.apply("kept/a", "1", "d/e/f", "1")
	two.apply("d/e/g", "1")
	two.fails(two.wants("d/e/f", "2"), "d/e/f is already put by Deployment shop/web")
	two.fails(two.wants("d", "2"), "of Deployment shop/web exclude each other")
	one.remove()
	two.has("d/e/g", "1")
	two.remove()
	entries, err := os.ReadDir(one.root)
	if err != nil || len(entries) != 1 || entries[0].Name() != "kept" {
		t.Errorf("left are %v, %v", entries, err)
	}
}

func TestPathsLeadNowhereElse(t *testing.T) {
	t.Parallel()
	h := newHand(t)
	outside := t.TempDir()
	h.must(os.Symlink(outside, filepath.Join(h.root, "link")))
	h.must(os.Symlink(filepath.Join(outside, "target"), filepath.Join(h.root, "final")))
	h.must(os.Mkdir(filepath.Join(h.root, "dir"), 0o755))
	h.fails(h.wants("link/a", "1"), "link/a leads over a symbolic link")
	h.fails(h.wants("final", "1"), "final is a symbolic link")
	h.fails(h.wants("dir", "1"), "dir is a directory")
	elsewhere := *h
	elsewhere.root = outside
	h.fails(elsewhere.wants("a", "1"), "no directory that fileRoots of agent.yaml lists is above it: add one there, as fileRoots: ["+outside+"]")
	h.Roots = []string{filepath.Join(h.root, "absent"), filepath.Join(h.root, "link")}
	h.fails(h.wants("absent/a", "1"), "absent of fileRoots does not exist on the device: create it")
	h.fails(h.wants("link/a", "1"), "link of fileRoots is a symbolic link, or leads over one")
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside are %v, %v", left, err)
	}
}

func TestAccountsAndContentsThatAreNotThere(t *testing.T) {
	t.Parallel()
	h := newHand(t)
	for data, says := range map[string]string{
		`{"path":"/a/b","content":"","owner":"nobody-here"}`:                `/a/b: owner: the device has no account "nobody-here"`,
		`{"path":"/a/b","content":"","group":"nobody-here"}`:                `/a/b: group: the device has no group "nobody-here"`,
		`{"path":"/a/b","secretKeyRef":{"name":"s","key":"k"}}`:             `/a/b: the Secret "s" has no key "k"`,
		`{"path":"/a/b","configMapKeyRef":{"name":"s","key":"k"}}`:          `/a/b: the ConfigMap "s" has no key "k"`,
		`{"path":"/a/b","content":"","mode":2541}`:                          "files[0].mode: 2541 is not within 0 to 511",
		`{"path":"/a/../b","content":""}`:                                   "files[0].path",
		`{"path":"/a/b"}`:                                                   "exactly one of content",
		`{"path":"/a/b","content":""},{"path":"/a/b/c","content":""}`:       "exclude each other",
		`{"path":"/a/b","content":"","owner":"root:root"}`:                  "files[0].owner",
		`{"path":"/a/b","content":"","owner":"99999999999999999999999999"}`: "files[0].owner",
	} {
		h.fails(&interpreter.Wanted{Deployment: h.ref, Type: score.TypeFilesV0, Data: json.RawMessage(`{"files":[` + data + `]}`)}, says)
	}
	h.fails(&interpreter.Wanted{Deployment: h.ref, Type: "PodmanV0", Data: json.RawMessage(`{}`)}, "none of this interpreter's")
}

// A power cut at any point leaves what the next attempt finishes, and what leaves can be
// taken back. Each state is what is there after one more change of the disk.
func TestPowerCutAtAnyPoint(t *testing.T) {
	t.Parallel()
	for _, next := range []string{"again", "back", "leaves"} {
		for point := 0; ; point++ {
			h := newHand(t)
			h.apply("a", "1", "d/b", "1", "gone", "1")
			cut := h.cutAt(point, "a", "2", "d/e/c", "2", "new", "2")
			switch next {
			case "again":
				h.apply("a", "2", "d/e/c", "2", "new", "2")
				h.has("a", "2", "d/e/c", "2", "new", "2")
			case "back":
				h.apply("a", "1", "d/b", "1", "gone", "1")
				h.has("a", "1", "d/b", "1", "gone", "1")
			}
			h.remove()
			if left, err := os.ReadDir(h.root); err != nil || len(left) > 0 {
				t.Errorf("%s after a cut at %d: left are %v, %v", next, point, left, err)
			}
			if !cut {
				if point < 8 {
					t.Errorf("there are %d points only", point)
				}
				break
			}
		}
	}
}

// cutAt applies until a point, and reports whether there is one.
func (h *hand) cutAt(point int, pathsAndContents ...string) (cut bool) {
	h.t.Helper()
	errCut := errors.New("cut")
	h.SetCut(func() error {
		if point--; point < 0 {
			return errCut
		}
		return nil
	})
	defer h.SetCut(nil)
	err := h.Apply(h.t.Context(), h.wants(pathsAndContents...))
	if err != nil && !errors.Is(err, errCut) {
		h.t.Fatal(err)
	}
	return err != nil
}

// A disk without space changes nothing, and says so.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	h := newHand(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	small := filepath.Join(h.root, "small")
	h.must(os.Mkdir(small, 0o755))
	if err := syscall.Mount("none", small, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mounting is not allowed here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, 0) })
	h.apply("a", "1", "small/b", "1")
	large := strings.Repeat("x", 128<<10)
	err := h.Apply(t.Context(), h.wants("a", "2", "small/b", large))
	if err == nil || !strings.Contains(err.Error(), "no space for "+small+"/b") {
		t.Errorf("it says %v", err)
	}
	h.has("a", "1", "small/b", "1")
	h.apply("a", "2", "small/b", "2")
	h.has("a", "2", "small/b", "2")
}

func TestLedgerThatIsDamaged(t *testing.T) {
	t.Parallel()
	h := newHand(t)
	h.apply("a", "1")
	h.must(os.WriteFile(filepath.Join(h.Dir, "ledger.json"), []byte("{"), 0o600))
	h.fails(h.wants("a", "2"), "the list of what was put here cannot be read, so nothing is changed")
	if err := h.Remove(t.Context(), h.ref, wire.RetainVolumes); err == nil {
		t.Error("something is removed")
	}
	h.has("a", "1")
}

func TestSecretsAreForRootAlone(t *testing.T) {
	t.Parallel()
	h := newHand(t)
	path := filepath.Join(h.root, "key")
	w := &interpreter.Wanted{
		Deployment: h.ref, Type: score.TypeFilesV0, Mark: "m", Objects: map[string]map[string][]byte{"s": {"k": []byte("hidden")}},
		Data: fmt.Appendf(nil, `{"files":[{"path":%q,"secretKeyRef":{"name":"s","key":"k"},%s}]}`, path, owners()),
	}
	h.must(h.Apply(t.Context(), w))
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	h.Log = slog.New(slog.DiscardHandler)
	needs, err := h.Parse(score.TypeFilesV0, w.Data)
	if err != nil || len(needs) != 1 || needs[0] != "s" {
		t.Errorf("it needs %v, %v", needs, err)
	}
}
