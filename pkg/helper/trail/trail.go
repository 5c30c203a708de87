// Package trail looks along paths: it follows links name by name, and says what each name
// on the way stands for.
//
// Who looks matters: a unit hides directories from the agent that podman can mount, and an
// account may enter what another one may not. So the helper looks, with the rights and in
// the view of the account that mounts, and the agent judges by what it saw. What a Trail
// says may be invented: whoever takes the helper's place could mount what it likes anyway.
package trail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/printable"
)

const (
	// maxLinks bounds the links in a path, as the kernel does, maxPath its length in bytes.
	maxLinks, maxPath = 40, 4096
	// maxEntries bounds what one Trail says.
	maxEntries = 1024
	// maxFault bounds the text of a Fault in bytes.
	maxFault = 128
)

// Entry is what a name stands for; a link is not followed.
type Entry struct {
	// Mode is the kernel's st_mode.
	Mode uint32 `json:"mode,omitempty"`
	UID  uint32 `json:"uid,omitempty"`
	GID  uint32 `json:"gid,omitempty"`
	// ACL: its group bits stand for an access control list, or that cannot be found out.
	ACL bool `json:"acl,omitempty"`
	// Target is where a link leads.
	Target string `json:"target,omitempty"`
	// Fault is why nothing is known of it; empty when something is.
	Fault Fault `json:"fault,omitempty"`
}

// Fault is why nothing is known of an Entry: a value below, or a text.
type Fault string

// Values of Fault.
const (
	// Absent: there is none.
	Absent Fault = "absent"
	// Denied: whoever looks may not enter the directory.
	Denied Fault = "denied"
)

// Err is nil, or an error that is fs.ErrNotExist, fs.ErrPermission, or has the text.
func (f Fault) Err() error {
	switch f {
	case "":
		return nil
	case Absent:
		return fs.ErrNotExist
	case Denied:
		return fs.ErrPermission
	}
	return errors.New(printable.Line(fmt.Sprintf("%.*s", maxFault, string(f))))
}

// Perm are the nine bits of the rights.
func (e *Entry) Perm() uint32 { return e.Mode & 0o777 }

// Sticky reports whether only its owner takes an entry out of the directory.
func (e *Entry) Sticky() bool { return e.Mode&unix.S_ISVTX != 0 }

// IsDir reports whether it is a directory.
func (e *Entry) IsDir() bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsDevice reports whether it is a device.
func (e *Entry) IsDevice() bool {
	kind := e.Mode & unix.S_IFMT
	return kind == unix.S_IFCHR || kind == unix.S_IFBLK
}

func (e *Entry) isLink() bool { return e.Mode&unix.S_IFMT == unix.S_IFLNK }

// View is somebody's view of the device's files.
type View interface {
	// Lstat says what a path stands for, whose directories are no links.
	Lstat(path string) Entry
}

// Here is the view of this process.
type Here struct{}

// Lstat implements View.
func (Here) Lstat(path string) Entry {
	info, err := os.Lstat(path)
	if err != nil {
		return Entry{Fault: fault(err)}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Entry{Fault: "its owner is not known"}
	}
	e := Entry{Mode: stat.Mode, UID: stat.Uid, GID: stat.Gid}
	const groupRights = 0o070 // with a list, these bits are the most that it gives
	e.ACL = !e.isLink() && e.Mode&groupRights != 0 && hasACL(path)
	if e.isLink() {
		if e.Target, err = os.Readlink(path); err != nil {
			return Entry{Fault: fault(err)}
		}
	}
	return e
}

func fault(err error) Fault {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return Absent
	case errors.Is(err, fs.ErrPermission):
		return Denied
	}
	if cause, ok := errors.AsType[*fs.PathError](err); ok {
		err = cause.Err
	}
	return Fault(fmt.Sprintf("%.*s", maxFault, err.Error()))
}

// hasACL reports whether there is an access control list, or that this cannot be found out.
func hasACL(path string) bool {
	_, err := unix.Lgetxattr(path, "system.posix_acl_access", nil)
	return !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP)
}

// Trail is what was seen along some paths, by path. As a View it knows these paths alone.
type Trail map[string]Entry

// Lstat implements View.
func (t Trail) Lstat(path string) Entry {
	if e, ok := t[path]; ok {
		return e
	}
	return Entry{Fault: "nobody looked at it"}
}

// Walk looks along paths.
func Walk(paths []string) Trail {
	r := recorder{}
	r.Lstat("/")
	for _, path := range paths {
		_, _ = Follow(r, path, nil) // why it ends is in the last entry
	}
	return Trail(r)
}

// recorder is Here, and remembers.
type recorder Trail

func (r recorder) Lstat(path string) Entry {
	e, ok := r[path]
	switch {
	case ok:
		return e
	case len(r) >= maxEntries:
		return Entry{Fault: "too much lies on the way"}
	}
	r[path] = Here{}.Lstat(path)
	return r[path]
}

// Guard decides whether a directory on the way may be relied on: at is the directory, and
// entry what is looked for in it, which may be Absent.
type Guard func(dir string, at, entry *Entry) error

// Error says which name on a path nothing is known of.
type Error struct {
	// Path leads there, Dir is the directory that it is in.
	Path, Dir string
	// At is what is known of Dir.
	At Entry
	// Fault is not empty.
	Fault Fault
}

// Error implements error.
func (e *Error) Error() string { return e.Path + ": " + e.Fault.Err().Error() }

// Unwrap returns what Fault.Err does.
func (e *Error) Unwrap() error { return e.Fault.Err() }

// Follow resolves the links in a path. It asks the guard, if there is one, about each
// directory that the way leads through, those of links included, before it goes on. It
// returns the guard's error, an *Error, or why the path is none.
func Follow(v View, path string, guard Guard) (string, error) {
	if !filepath.IsAbs(path) || len(path) > maxPath {
		return "", errors.New("not an absolute path of at most 4096 bytes")
	}
	here, rest, links := "/", names(path), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			here = filepath.Dir(here)
			continue
		}
		entry, err := enter(v, here, name, guard)
		if err != nil {
			return "", err
		}
		if !entry.isLink() {
			here = filepath.Join(here, name)
			continue
		}
		switch links++; {
		case links > maxLinks:
			return "", errors.New("too many links")
		case len(entry.Target) > maxPath, printable.Line(entry.Target) != entry.Target:
			return "", errors.New("a link on the way has a target that cannot be shown")
		}
		if filepath.IsAbs(entry.Target) {
			here = "/"
		}
		rest = append(names(entry.Target), rest...)
	}
	return here, nil
}

// enter looks at a name in a directory, which the guard has to pass.
func enter(v View, dir, name string, guard Guard) (Entry, error) {
	path := filepath.Join(dir, name)
	entry := v.Lstat(path)
	if guard == nil && entry.Fault == "" {
		return entry, nil
	}
	at := v.Lstat(dir)
	if guard != nil && (entry.Fault == "" || entry.Fault == Absent) {
		if err := guard(dir, &at, &entry); err != nil {
			return entry, err
		}
	}
	if entry.Fault != "" {
		return entry, &Error{Path: path, Dir: dir, At: at, Fault: entry.Fault}
	}
	return entry, nil
}

// names splits a path. What is left out leads nowhere else.
func names(path string) []string {
	var list []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			list = append(list, name)
		}
	}
	return list
}
