package hostinstall

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
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
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if err := makeLike(to, info); err != nil {
		return err
	}
	src, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	return fs.WalkDir(src.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		if skip != nil && filepath.Dir(path) == "." && skip(path) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return copyEntry(src, dst, path)
	})
}

// makeLike makes a directory with the mode and the owner of another.
func makeLike(path string, like fs.FileInfo) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	uid, gid := owner(like)
	return errors.Join(os.Lchown(path, uid, gid), os.Chmod(path, like.Mode().Perm()))
}

func owner(info fs.FileInfo) (uid, gid int) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1, -1 // chown leaves these alone
	}
	return int(s.Uid), int(s.Gid)
}

// copyEntry copies files, directories and links. Sockets and the like belong to
// a program that runs.
func copyEntry(src, dst *os.Root, path string) error {
	info, err := src.Lstat(path)
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		err = dst.Mkdir(path, 0o700)
	case fs.ModeSymlink:
		var target string
		if target, err = src.Readlink(path); err == nil {
			err = dst.Symlink(target, path)
		}
	case 0:
		err = copyFile(src, dst, path)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	uid, gid := owner(info)
	if err := dst.Lchown(path, uid, gid); err != nil || info.Mode().Type() == fs.ModeSymlink {
		return err
	}
	return dst.Chmod(path, info.Mode().Perm())
}

func copyFile(src, dst *os.Root, path string) error {
	in, err := src.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := dst.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// ReplaceTree implements Host. A power cut between two renames leaves some of
// both; doing it again mends that.
func (h OS) ReplaceTree(saved, dir string, skip func(name string) bool) error {
	if err := h.replaceTree(h.path(saved), h.path(dir), skip); err != nil {
		return fmt.Errorf("restoring %s from %s: %w", dir, saved, err)
	}
	return nil
}

func (h OS) replaceTree(saved, dir string, skip func(name string) bool) error {
	stage := filepath.Join(dir, staging)
	if err := h.copyTree(saved, stage, nil); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	present, err := readDir(root, ".")
	if err != nil {
		return err
	}
	for _, e := range present {
		if e.Name() == staging || skip != nil && skip(e.Name()) {
			continue
		}
		if err := root.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	restored, err := readDir(root, staging)
	if err != nil {
		return err
	}
	for _, e := range restored {
		if err := root.Rename(filepath.Join(staging, e.Name()), e.Name()); err != nil {
			return err
		}
	}
	return root.Remove(staging)
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
