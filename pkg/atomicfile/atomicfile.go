// Package atomicfile replaces files so that a power cut leaves either the old
// content or the new, never a part. Everything that has to survive one is written
// here, but for logs that grow and for directories that are made whole and then
// renamed. It imports the standard library only.
//
// A file is written under another name in its own directory, gets its owner and
// its mode, is brought to the disk, is renamed, and its name is brought to the
// disk. A link that has the file's name is replaced, never followed.
package atomicfile

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// prefix begins the names of what is not whole yet. A name, "-" and random letters
// follow.
const prefix = ".tmp-"

// Attributes are what a file gets besides its content.
type Attributes struct {
	// Mode has exactly the permissions, whatever the umask is.
	Mode fs.FileMode
	// Owner is nil for whoever writes.
	Owner *Owner
}

// Owner are the ids of an account.
type Owner struct{ UID, GID int }

// Write replaces path with data, with exactly the given permissions. The data
// and the directory entry are on disk when it returns.
func Write(path string, data []byte, perm fs.FileMode) error {
	return Replace(path, bytes.NewReader(data), Attributes{Mode: perm})
}

// Replace is Write for content that need not be in memory.
func Replace(path string, content io.Reader, a Attributes) error {
	return inDir(path, func(root *os.Root, name string) error { return replace(root, name, content, a) })
}

// ReplaceIn replaces a file below a directory that another account may change
// meanwhile: links in it lead nowhere else.
func ReplaceIn(root *os.Root, name string, content io.Reader, a Attributes) error {
	if err := replace(root, name, content, a); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Join(root.Name(), name), err)
	}
	return nil
}

// Link replaces path with a symbolic link to target.
func Link(target, path string) error {
	return inDir(path, func(root *os.Root, name string) error {
		next := unfinished(name)
		if err := root.Symlink(target, next); err != nil {
			return err
		}
		return commit(root, next, name)
	})
}

// inDir opens the directory of a path.
func inDir(path string, do func(root *os.Root, name string) error) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err == nil {
		err = errors.Join(do(root, filepath.Base(path)), root.Close())
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func replace(root *os.Root, name string, content io.Reader, a Attributes) error {
	next := unfinished(name)
	f, err := root.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f, content, a), f.Close()); err != nil {
		return errors.Join(err, root.Remove(next))
	}
	return commit(root, next, name)
}

// unfinished is another name in the same directory, which no other write chooses.
func unfinished(name string) string {
	const letters = 10
	return filepath.Join(filepath.Dir(name), prefix+filepath.Base(name)+"-"+rand.Text()[:letters])
}

// fill gives a file all that it is to have, and brings it to the disk.
func fill(f *os.File, content io.Reader, a Attributes) error {
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	if a.Owner != nil {
		if err := f.Chown(a.Owner.UID, a.Owner.GID); err != nil {
			return err
		}
	}
	if err := f.Chmod(a.Mode); err != nil {
		return err
	}
	return f.Sync()
}

// commit gives what is whole its name.
func commit(root *os.Root, next, name string) error {
	if err := root.Rename(next, name); err != nil {
		return errors.Join(err, root.Remove(next))
	}
	return SyncIn(root, filepath.Dir(name))
}

// SyncIn is SyncDir below a directory that another account may change meanwhile.
func SyncIn(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Discard removes what writes of a file that were interrupted left beside it.
// Nobody may write the file meanwhile.
func Discard(path string) error {
	dir, base := filepath.Split(path)
	err := sweep(filepath.Clean(dir), func(name string) bool { return isUnfinished(name, base) })
	if err != nil {
		return fmt.Errorf("removing what interrupted writes of %s left: %w", path, err)
	}
	return nil
}

// isUnfinished reports whether a name is one of unfinished for base, or that of an
// earlier version, which had no random letters.
func isUnfinished(name, base string) bool {
	rest, ok := strings.CutPrefix(name, prefix+base)
	letters, separated := strings.CutPrefix(rest, "-")
	return ok && (rest == "" || separated && letters != "" && strings.Trim(letters, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == "")
}

// Sweep removes what writes left behind that were interrupted. Nobody may write
// to the directories meanwhile; one that does not exist is empty.
func Sweep(dirs ...string) error {
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, sweep(dir, func(name string) bool { return strings.HasPrefix(name, prefix) }))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing what interrupted writes left: %w", err)
	}
	return nil
}

func sweep(dir string, which func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if which(e.Name()) {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// SyncDir makes renames and removals in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}
