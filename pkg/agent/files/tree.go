package files

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFile is the longest file that is read: nothing longer was put.
const maxFile = 2 << 20

// beneath: a path leads over no symbolic link, and not out of where it begins.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// tree are the directories below which files may be put.
type tree struct {
	roots []string
	// cut is called before each change, and its error is returned; nil but in tests.
	cut func() error
}

func (t *tree) changing() error {
	if t.cut == nil {
		return nil
	}
	return t.cut()
}

// errNoRoot: no root is above a path.
var errNoRoot = errors.New("no directory that fileRoots of agent.yaml lists is above it")

// openRoot opens the root above a path, and returns what is left of the path.
func (t *tree) openRoot(path string) (root *os.File, rest string, err error) {
	longest := ""
	for _, r := range t.roots {
		if below(path, r) && len(r) > len(longest) {
			longest = r
		}
	}
	if longest == "" {
		return nil, "", fmt.Errorf("%s: %w: add one there, as fileRoots: [%s], and restart fleet-agent", path, errNoRoot, filepath.Dir(path))
	}
	fd, err := openat2(unix.AT_FDCWD, longest, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, "", fmt.Errorf("%s of fileRoots does not exist on the device: create it", longest)
	case errors.Is(err, unix.ELOOP):
		return nil, "", fmt.Errorf("%s of fileRoots is a symbolic link, or leads over one: list the directory that it leads to", longest)
	case errors.Is(err, unix.ENOTDIR):
		return nil, "", fmt.Errorf("%s of fileRoots is no directory", longest)
	case err != nil:
		return nil, "", fmt.Errorf("opening %s: %w", longest, err)
	}
	return os.NewFile(uintptr(fd), longest), strings.TrimPrefix(path, strings.TrimSuffix(longest, "/")+"/"), nil
}

// openat2 waits out what the kernel asks to repeat.
func openat2(at int, path string, flags uint64, resolve uint64) (fd int, err error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for range 16 {
		if fd, err = unix.Openat2(at, path, &how); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return fd, err
}

// openDir opens the directory of a path below its root. It returns fs.ErrNotExist when
// there is none.
func (t *tree) openDir(path string) (dir *os.File, name string, err error) {
	root, rest, err := t.openRoot(path)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	fd, err := openat2(int(root.Fd()), filepath.Dir(rest), unix.O_RDONLY|unix.O_DIRECTORY, beneath)
	if err != nil {
		return nil, "", explain(path, err)
	}
	return os.NewFile(uintptr(fd), filepath.Dir(path)), filepath.Base(rest), nil
}

// explain says what an error of openat2 means. It wraps fs.ErrNotExist.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("%s leads over a symbolic link: use the path that it leads to, below one of fileRoots", path)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s: something above it is no directory", path)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%s is read-only for fleet-agent-files.service: restart fleet-agent after a change of fileRoots", path)
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("no space for %s: %w", path, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// look says what is at a path. It fails for what nobody may look at.
func (t *tree) look(path string) (s sight, err error) {
	dir, name, err := t.openDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	defer dir.Close()
	f, s, err := t.open(dir, name, path)
	if f != nil {
		defer f.Close()
	}
	return s, err
}

// open opens a regular file and says what it is. f is nil for all else.
func (t *tree) open(dir *os.File, name, path string) (f *os.File, s sight, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, s, nil
	case err != nil:
		return nil, s, explain(path, err)
	}
	s.exists = true
	if s.kind = kindOf(st.Mode); s.kind != "" {
		return nil, s, nil
	}
	fd, err := openat2(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, beneath)
	if err != nil {
		return nil, s, explain(path, err)
	}
	f = os.NewFile(uintptr(fd), path)
	if err := unix.Fstat(fd, &st); err != nil || kindOf(st.Mode) != "" {
		f.Close()
		return nil, s, fmt.Errorf("%s changes while it is looked at: %w", path, errors.Join(err, errBusy))
	}
	s.mode, s.uid, s.gid = st.Mode&0o7777, int(st.Uid), int(st.Gid)
	h := sha256.New()
	if n, err := io.Copy(h, io.LimitReader(f, maxFile)); err != nil {
		f.Close()
		return nil, s, explain(path, err)
	} else if n < maxFile { // and otherwise it is nothing that was put
		s.sum = hex.EncodeToString(h.Sum(nil))
	}
	return f, s, nil
}

var errBusy = errors.New("try again")

// kindOf is empty for a regular file.
func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return ""
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symbolic link"
	}
	return "no regular file"
}

// missing lists the directories above a path that are not there, the topmost first.
func (t *tree) missing(path string) (dirs []string, err error) {
	root, rest, err := t.openRoot(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for dir := filepath.Dir(rest); dir != "."; dir = filepath.Dir(dir) {
		fd, err := openat2(int(root.Fd()), dir, unix.O_PATH|unix.O_DIRECTORY, beneath)
		if err == nil {
			return dirs, unix.Close(fd)
		}
		if !errors.Is(err, unix.ENOENT) {
			return nil, explain(path, err)
		}
		dirs = append([]string{filepath.Join(root.Name(), dir)}, dirs...)
	}
	return dirs, nil
}

// mkdir makes a directory whose parent is there.
func (t *tree) mkdir(path string) error {
	dir, name, err := t.openDir(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := t.changing(); err != nil {
		return err
	}
	const mode = 0o755
	if err := unix.Mkdirat(int(dir.Fd()), name, mode); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return explain(path, err)
	}
	fd, err := openat2(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY, beneath)
	if err != nil {
		return explain(path, err)
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, mode); err != nil { // whatever the umask is
		return explain(path, err)
	}
	return dir.Sync()
}

// rmdir deletes a directory unless something is in it, and reports whether it is gone.
func (t *tree) rmdir(path string) bool {
	dir, name, err := t.openDir(path)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer dir.Close()
	if t.changing() != nil {
		return false
	}
	err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
	return err == nil && dir.Sync() == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}

// unfinished is the name of a file that is not whole yet. It follows from the path, so
// that what a power cut left is found.
func unfinished(path string) string { return ".fleet-" + sumOf([]byte(path))[:16] + ".tmp" }

// prepare writes a file beside where it belongs, and brings it to the disk.
func (t *tree) prepare(f *file) error {
	dir, _, err := t.openDir(f.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	name := unfinished(f.path)
	if err := unlink(dir, name); err != nil {
		return explain(f.path, err)
	}
	fd, err := openat2(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, beneath)
	if err != nil {
		return explain(f.path, err)
	}
	out := os.NewFile(uintptr(fd), f.path)
	defer out.Close()
	if err := t.changing(); err != nil {
		return err
	}
	_, err = out.Write(f.content)
	if err == nil {
		err = setAttributes(out, f)
	}
	if err == nil {
		err = out.Sync()
	}
	if err != nil {
		return explain(f.path, errors.Join(brief(err), unlink(dir, name)))
	}
	return nil
}

// brief leaves out the operation and the path.
func brief(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// setAttributes gives the owner first: a file that is changed loses bits of its mode.
func setAttributes(out *os.File, f *file) error {
	if err := out.Chown(f.uid, f.gid); err != nil {
		return err
	}
	return out.Chmod(os.FileMode(f.mode))
}

// commit puts what was prepared in its place. What replaces nothing replaces nothing that
// came meanwhile, either.
func (t *tree) commit(f *file, its *put) error {
	dir, name, err := t.openDir(f.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	open, s, err := t.open(dir, name, f.path)
	if err != nil {
		return err
	}
	if open != nil {
		open.Close()
	}
	if s.exists && !s.is(its) {
		return foreign(f.path, &s, true)
	}
	if err := t.changing(); err != nil {
		return err
	}
	flags := uint(0)
	if !s.exists {
		flags = unix.RENAME_NOREPLACE
	}
	fd := int(dir.Fd())
	if err := unix.Renameat2(fd, unfinished(f.path), fd, name, flags); err != nil {
		return explain(f.path, err)
	}
	return dir.Sync()
}

// remove deletes a file that is what was put, and what a power cut left of it. It reports
// what is there instead.
func (t *tree) remove(path string, its *put) (left bool, err error) {
	dir, name, err := t.openDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer dir.Close()
	if err := t.changing(); err != nil {
		return false, err
	}
	if err := unlink(dir, unfinished(path)); err != nil {
		return false, explain(path, err)
	}
	open, s, err := t.open(dir, name, path)
	if err != nil {
		return false, err
	}
	if open != nil {
		open.Close()
	}
	if !s.is(its) {
		return s.exists, nil
	}
	if err := unlink(dir, name); err != nil {
		return false, explain(path, err)
	}
	return false, dir.Sync()
}

// discard deletes what was prepared and not put.
func (t *tree) discard(path string) {
	if dir, _, err := t.openDir(path); err == nil && t.changing() == nil {
		defer dir.Close()
		_ = unlink(dir, unfinished(path)) // whatever is left the next attempt deletes
	}
}

func unlink(dir *os.File, name string) error {
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
