package hostinstall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

// Host is the machine that is changed. Paths are absolute. It is an interface
// so that tests can interrupt an installation at every single change.
type Host interface {
	// Lstat and ReadDir are those of package os.
	Lstat(path string) (fs.FileInfo, error)
	ReadDir(path string) ([]fs.DirEntry, error)
	Open(path string) (io.ReadCloser, error)
	// Mounts are the mount points.
	Mounts() ([]string, error)
	// Free is the number of bytes that may still be written below path.
	Free(path string) (uint64, error)
	// ReadOnly reports whether path is, or would be, on a file system that nobody can
	// write.
	ReadOnly(path string) bool
	// Has reports whether a program can be run.
	Has(program string) bool
	// Query runs a program that changes nothing, and returns its output.
	Query(ctx context.Context, args ...string) (string, error)

	// Put writes a file whole or not at all. What a Put that was killed left
	// beside the file goes with the next Put or Remove of the same path.
	Put(path string, content io.Reader, mode fs.FileMode) error
	// Mkdir makes one directory, which may be there already.
	Mkdir(path string, mode fs.FileMode) error
	// Own gives a directory to an account, without what is in it.
	Own(path, account string, mode fs.FileMode) error
	// Remove removes a file or an empty directory; it may be gone already.
	Remove(path string) error
	// Run runs a program that changes something.
	Run(ctx context.Context, args ...string) error
	// Script is Run for a program that has something to say to the operator.
	Script(ctx context.Context, out io.Writer, args ...string) error

	// The five below work on directories of which an account is the owner, and
	// follow no link that it may have put there.

	// Digest returns the SHA-256 of what CopyTree would copy, empty when there is
	// no such directory.
	Digest(dir string, skip func(name string) bool) (string, error)
	// CopyTree copies a directory with owners and modes; to is replaced.
	CopyTree(from, to string, skip func(name string) bool) error
	// ReplaceTree makes a directory what CopyTree saved. Names directly below it
	// that skip reports stay as they are.
	ReplaceTree(saved, dir string, skip func(name string) bool) error
	// MergeTree copies from what CopyTree saved only what a directory lacks of the
	// names: files and, of files with JSON lines, lines.
	MergeTree(saved, dir string, names []string) error
	// EmptyTree removes what is in a directory, but for what keep reports and all
	// that is below that. It returns what keep reported.
	EmptyTree(dir string, keep func(path string) bool) (kept []string, err error)
}

// OS is the host that this program runs on, or a directory that looks like one.
type OS struct {
	// Root is put before every path; empty for the host itself.
	Root string
}

func (h OS) path(p string) string { return filepath.Join(h.Root, p) }

// Lstat implements Host.
func (h OS) Lstat(path string) (fs.FileInfo, error) { return os.Lstat(h.path(path)) }

// ReadDir implements Host.
func (h OS) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(h.path(path)) }

// Open implements Host.
func (h OS) Open(path string) (io.ReadCloser, error) { return os.Open(h.path(path)) }

// Mounts implements Host.
func (h OS) Mounts() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing the mount points: %w", err)
	}
	// Blanks in a path are written in octal.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var points []string
	for line := range strings.Lines(string(data)) {
		const mountPoint = 4
		if fields := strings.Fields(line); len(fields) > mountPoint {
			points = append(points, unescape.Replace(fields[mountPoint]))
		}
	}
	return points, nil
}

// Free implements Host.
func (h OS) Free(path string) (uint64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(h.path(path), &s); err != nil {
		return 0, fmt.Errorf("measuring the space in %s: %w", path, err)
	}
	return s.Bavail * uint64(s.Bsize), nil //nolint:gosec // a block size is positive
}

// ReadOnly implements Host.
func (h OS) ReadOnly(path string) bool {
	const write = 2 // W_OK
	for {
		err := syscall.Access(h.path(path), write)
		if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return errors.Is(err, syscall.EROFS)
		}
		path = filepath.Dir(path)
	}
}

// Has implements Host.
func (h OS) Has(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// Query implements Host.
func (h OS) Query(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("running %s: %w%s", strings.Join(args, " "), err, lastLine(stderr.String()))
	}
	return stdout.String(), nil
}

// Run implements Host.
func (h OS) Run(ctx context.Context, args ...string) error {
	_, err := h.Query(ctx, args...)
	return err
}

// Script implements Host.
func (h OS) Script(ctx context.Context, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	return ": " + text[strings.LastIndexByte(text, '\n')+1:]
}

// Put implements Host. Lock keeps two from writing the same path.
func (h OS) Put(path string, content io.Reader, mode fs.FileMode) error {
	if err := atomicfile.Discard(h.path(path)); err != nil {
		return err
	}
	return atomicfile.Replace(h.path(path), content, atomicfile.Attributes{Mode: mode})
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Mkdir implements Host.
func (h OS) Mkdir(path string, mode fs.FileMode) error {
	err := os.Mkdir(h.path(path), mode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(h.path(path), mode) // whatever the umask is
}

// Own implements Host.
func (h OS) Own(path, account string, mode fs.FileMode) error {
	u, err := user.Lookup(account)
	if err != nil {
		return fmt.Errorf("giving %s to %s: %w", path, account, err)
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return fmt.Errorf("giving %s to %s: %w", path, account, err)
	}
	d, err := os.OpenFile(h.path(path), os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("giving %s to %s: %w", path, account, err)
	}
	defer d.Close()
	if err := errors.Join(d.Chown(uid, gid), d.Chmod(mode)); err != nil {
		return fmt.Errorf("giving %s to %s: %w", path, account, err)
	}
	return nil
}

// Remove implements Host.
func (h OS) Remove(path string) error {
	return errors.Join(atomicfile.Discard(h.path(path)), removeIfThere(h.path(path)))
}

const lockPath = "/run/fleet-install.lock"

// Lock keeps a second installation from working at the same time, until it is
// closed or the process ends. Its error wraps ErrRefused when there is one.
func Lock() (io.Closer, error) {
	f, err := os.OpenFile(lockPath, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", lockPath, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		return nil, fmt.Errorf("another installation is under way: wait until it has ended: %w", ErrRefused)
	}
	return f, nil
}
