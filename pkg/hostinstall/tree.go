package hostinstall

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

// staging is where ReplaceTree collects what it is about to put in place: in
// the directory itself, so that a rename does the rest.
const staging = ".restore"

// CopyTree implements Host.
func (h OS) CopyTree(from, to string, skip func(name string) bool) error {
	if err := h.copyTree(h.path(from), h.path(to), skip); err != nil {
		return fmt.Errorf("copying %s to %s: %w", from, to, err)
	}
	return nil
}

func (h OS) copyTree(from, to string, skip func(name string) bool) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	parent, err := os.OpenRoot(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer parent.Close()
	return copyInto(from, parent, filepath.Base(to), skip)
}

// maxDepth bounds directories in directories: the account that owns a tree could
// keep its reader busy for years. The server makes a dozen.
const maxDepth = 64

// maxLines bounds a file whose lines are merged, in bytes: the account that owns
// it could fill root's memory. A key that was revoked takes a few hundred.
const maxLines = 64 << 20

var (
	errDeep       = fmt.Errorf("more than %d directories lie in one another: remove them with rm -r", maxDepth)
	errNotRegular = errors.New("not a regular file any more")
	errNotOurs    = errors.New("somebody put another directory in its place")
)

// copyInto copies a directory to name, which does not exist, below parent. It
// is on the disk when copyInto returns. Nobody else can enter it meanwhile: the
// account that owns what is copied could have something else given to it.
func copyInto(from string, parent *os.Root, name string, skip func(name string) bool) error {
	src, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := parent.Mkdir(name, 0o700); err != nil {
		return err
	}
	dst, err := parent.OpenRoot(name)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := checkOurs(dst); err != nil {
		return err
	}
	if err := walk(src, skip, func(path string) error { return copyEntry(src, dst, path) }); err != nil {
		return err
	}
	return syncDirs(dst)
}

// walk calls do for everything below a directory, but for the names directly
// below it that skip reports, in an order that is always the same.
func walk(src *os.Root, skip func(name string) bool, do func(path string) error) error {
	return fs.WalkDir(src.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		if strings.Count(path, "/") >= maxDepth {
			return fmt.Errorf("%.200s: %w", path, errDeep)
		}
		if skip != nil && filepath.Dir(path) == "." && skip(path) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return do(path)
	})
}

// syncDirs brings the names in a directory, and in those below it, to the disk.
func syncDirs(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return atomicfile.SyncIn(root, path)
	})
}

// checkOurs returns an error for a directory that others own or can enter.
func checkOurs(dir *os.Root) error {
	info, err := dir.Stat(".")
	if err != nil {
		return err
	}
	if uid, _ := owner(info); uid != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: %w", dir.Name(), errNotOurs)
	}
	return nil
}

func owner(info fs.FileInfo) (uid, gid int) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1, -1 // chown leaves these alone
	}
	return int(s.Uid), int(s.Gid)
}

// copyEntry copies files, directories and links. Sockets and the like belong to
// a program that runs. What is given away is what was made, whatever has its name
// by then: so links, which cannot be opened, stay root's.
func copyEntry(src, dst *os.Root, path string) error {
	info, err := src.Lstat(path)
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		return copyDir(dst, path, info)
	case fs.ModeSymlink:
		target, err := src.Readlink(path)
		if err != nil {
			return err
		}
		return dst.Symlink(target, path)
	case 0:
		return copyFile(src, dst, path)
	}
	return nil
}

func copyDir(dst *os.Root, path string, like fs.FileInfo) error {
	if err := dst.Mkdir(path, 0o700); err != nil {
		return err
	}
	dir, err := dst.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(giveLike(dir, like), dir.Close())
}

func copyFile(src, dst *os.Root, path string) error {
	in, err := openFile(src, path)
	if err != nil {
		return err
	}
	defer in.Close()
	like, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := dst.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, giveLike(out, like), out.Sync(), out.Close())
}

// giveLike gives what is open the owner and the mode of another.
func giveLike(f *os.File, like fs.FileInfo) error {
	uid, gid := owner(like)
	return errors.Join(f.Chown(uid, gid), f.Chmod(like.Mode().Perm()))
}

// Digest implements Host.
func (h OS) Digest(dir string, skip func(name string) bool) (string, error) {
	root, err := os.OpenRoot(h.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", dir, err)
	}
	defer root.Close()
	sum := sha256.New()
	if err := walk(root, skip, func(path string) error { return digestEntry(sum, root, path) }); err != nil {
		return "", fmt.Errorf("reading %s: %w", dir, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// digestEntry adds what copyEntry copies.
func digestEntry(sum io.Writer, root *os.Root, path string) error {
	info, err := root.Lstat(path)
	if err != nil {
		return err
	}
	kind := info.Mode().Type()
	switch kind {
	case fs.ModeDir:
		fmt.Fprintf(sum, "directory %q\n", path)
	case fs.ModeSymlink:
		target, err := root.Readlink(path)
		fmt.Fprintf(sum, "link %q %q\n", path, target)
		return err
	case 0:
		f, err := openFile(root, path)
		if err != nil {
			return err
		}
		defer f.Close()
		content := sha256.New()
		_, err = io.Copy(content, f)
		fmt.Fprintf(sum, "file %q %x\n", path, content.Sum(nil))
		return err
	}
	return nil
}

// openFile opens a file, and waits for nobody if it is another thing by now.
func openFile(root *os.Root, path string) (*os.File, error) {
	f, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, errNotRegular)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReplaceTree implements Host. A power cut leaves some of both; doing it again
// completes it.
func (h OS) ReplaceTree(saved, dir string, skip func(name string) bool) error {
	if err := h.replaceTree(h.path(saved), h.path(dir), skip); err != nil {
		return fmt.Errorf("restoring %s from %s: %w", dir, saved, err)
	}
	return nil
}

func (h OS) replaceTree(saved, dir string, skip func(name string) bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.RemoveAll(staging); err != nil {
		return err
	}
	if err := copyInto(saved, root, staging, skip); err != nil {
		return err
	}
	if err := makeRoom(root, skip); err != nil {
		return err
	}
	restored, err := fs.ReadDir(root.FS(), staging)
	if err != nil {
		return err
	}
	for _, e := range restored { // a database comes before its log
		if err := root.Rename(filepath.Join(staging, e.Name()), e.Name()); err != nil {
			return err
		}
	}
	return errors.Join(root.Remove(staging), atomicfile.SyncIn(root, "."))
}

// makeRoom removes what is to be replaced, except for files that a rename
// replaces at once: a server that starts after a power cut has one database or
// the other, and never makes a new one.
func makeRoom(root *os.Root, skip func(name string) bool) error {
	present, err := readDir(root, ".")
	if err != nil {
		return err
	}
	for _, e := range present {
		if e.Name() == staging || skip != nil && skip(e.Name()) || replaces(root, e) {
			continue
		}
		if err := root.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// replaces reports whether the file that is restored may be renamed over the
// present one. SQLite would replay the log of one database into another.
func replaces(root *os.Root, present fs.DirEntry) bool {
	next, err := root.Lstat(filepath.Join(staging, present.Name()))
	log := strings.HasSuffix(present.Name(), "-wal") || strings.HasSuffix(present.Name(), "-shm")
	return err == nil && !log && next.Mode().IsRegular() && present.Type().IsRegular()
}

// MergeTree implements Host.
func (h OS) MergeTree(saved, dir string, names []string) error {
	if err := mergeTree(h.path(saved), h.path(dir), names); err != nil {
		return fmt.Errorf("restoring what %s lacks from %s: %w", dir, saved, err)
	}
	return nil
}

func mergeTree(saved, dir string, names []string) error {
	src, err := os.OpenRoot(saved)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer dst.Close()
	skip := func(name string) bool { return !slices.Contains(names, name) }
	return walk(src, skip, func(path string) error { return mergeEntry(src, dst, path) })
}

func mergeEntry(src, dst *os.Root, path string) error {
	present, err := dst.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(copyEntry(src, dst, path), atomicfile.SyncIn(dst, filepath.Dir(path)))
	}
	if err != nil || filepath.Ext(path) != ".jsonl" || !present.Mode().IsRegular() {
		return err
	}
	return mergeLines(src, dst, path)
}

// mergeLines puts the lines that only the backup has before those of the
// present file: of two about the same thing the later one counts.
func mergeLines(src, dst *os.Root, path string) error {
	before, err := readLines(src, path)
	if err != nil {
		return err
	}
	now, err := readLines(dst, path)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, line := range now {
		known[line] = true
	}
	lost := slices.DeleteFunc(before, func(line string) bool { return known[line] })
	if len(lost) == 0 {
		return nil
	}
	return rewrite(src, dst, path, strings.Join(append(lost, now...), ""))
}

// readLines returns lines with their ends. A last one without an end was never
// acknowledged.
func readLines(root *os.Root, path string) ([]string, error) {
	f, err := openFile(root, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxLines+1))
	if err == nil && len(content) > maxLines {
		err = fmt.Errorf("%s is longer than %d MiB", path, maxLines>>20)
	}
	lines := strings.SplitAfter(string(content), "\n")
	return lines[:len(lines)-1], err
}

// rewrite replaces a file at once, with owner and mode of the one in src.
func rewrite(src, dst *os.Root, path, content string) error {
	like, err := src.Lstat(path)
	if err != nil {
		return err
	}
	uid, gid := owner(like)
	return atomicfile.ReplaceIn(dst, path, strings.NewReader(content), atomicfile.Attributes{
		Mode: like.Mode().Perm(), Owner: &atomicfile.Owner{UID: uid, GID: gid},
	})
}

// EmptyTree implements Host.
func (h OS) EmptyTree(dir string, keep func(path string) bool) ([]string, error) {
	root, err := os.OpenRoot(h.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("emptying %s: %w", dir, err)
	}
	defer root.Close()
	r := remover{root: root, keep: func(rel string) bool { return keep(filepath.Join(dir, rel)) }}
	if err := r.empty("."); err != nil {
		return nil, fmt.Errorf("emptying %s: %w", dir, err)
	}
	for i, rel := range r.kept {
		r.kept[i] = filepath.Join(dir, rel)
	}
	return r.kept, nil
}

// readDir is not fs.ReadDir, which refuses names that are not UTF-8.
func readDir(root *os.Root, dir string) ([]fs.DirEntry, error) {
	d, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.ReadDir(-1)
}

// remover empties a directory but for what it keeps.
type remover struct {
	root *os.Root
	keep func(rel string) bool
	kept []string
}

func (r *remover) empty(dir string) error {
	if strings.Count(dir, "/") >= maxDepth {
		return fmt.Errorf("%.200s: %w", dir, errDeep)
	}
	entries, err := readDir(r.root, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if r.keep(path) {
			r.kept = append(r.kept, path)
			continue
		}
		if err := r.remove(path, e); err != nil {
			return err
		}
	}
	return nil
}

func (r *remover) remove(path string, e fs.DirEntry) error {
	before := len(r.kept)
	if e.IsDir() {
		if err := r.empty(path); err != nil {
			return err
		}
	}
	if len(r.kept) > before {
		return nil // it holds something that stays
	}
	return r.root.Remove(path)
}
