package rights

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Account is whose rights something has.
type Account struct{ UID, GID int }

// Of returns the account beside root that decides what a file says, because the
// file or its directory belongs to it; for a directory, the account that owns
// it. It returns false when there is none, or when this process is not root's:
// then nothing is to be given up. What lies further up is left to whoever chose
// the path.
func Of(path string) (Account, bool) {
	if os.Geteuid() != 0 {
		return Account{}, false
	}
	for _, look := range []func() (fs.FileInfo, error){
		func() (fs.FileInfo, error) { return os.Stat(directory(path)) },
		func() (fs.FileInfo, error) { return os.Lstat(path) },
		func() (fs.FileInfo, error) { return os.Stat(target(path)) },
		func() (fs.FileInfo, error) { return os.Stat(path) },
	} {
		info, err := look()
		if err != nil {
			continue // what is missing cannot lead astray
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 {
			return Account{UID: int(s.Uid), GID: int(s.Gid)}, true
		}
	}
	return Account{}, false
}

// directory is a path's, or the path itself when it is one.
func directory(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return path
	}
	return filepath.Dir(path)
}

// target is the directory of what links lead to.
func target(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return directory(path)
}

// Become gives up root's rights for those of the account, for good. Whatever
// needs root's rights has to be open by then. Other processes of the account can
// neither look into this one nor take its descriptors: the terminal is root's.
func (a Account) Become() error {
	for _, change := range []func() error{
		func() error { return syscall.Setgroups([]int{a.GID}) },
		func() error { return syscall.Setresgid(a.GID, a.GID, a.GID) },
		func() error { return syscall.Setresuid(a.UID, a.UID, a.UID) },
		// The kernel does so, too, unless fs.suid_dumpable is set.
		func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) },
	} {
		if err := change(); err != nil {
			return fmt.Errorf("taking the rights of uid %d: %w", a.UID, err)
		}
	}
	return nil
}

// As runs a function that opens, makes and renames files with the rights of the
// account, while the rest of the process keeps root's. The function starts no
// goroutines and no processes: they would be root's.
func (a Account) As(f func() error) error {
	// A thread whose rights cannot be restored ends with its goroutine.
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		restore, err := a.fileRights()
		if err == nil {
			err = f()
		}
		if restore != nil && restore() == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// fileRights gives the thread the account's rights to files. Changing the uid
// also takes the capabilities that override permissions.
func (a Account) fileRights() (restore func() error, err error) {
	groups, err := unix.Getgroups()
	if err != nil {
		return nil, fmt.Errorf("reading the groups: %w", err)
	}
	uid, gid := os.Geteuid(), os.Getegid()
	restore = func() error { return errors.Join(setfsid(uid, gid), unix.Setgroups(groups)) }
	if err := errors.Join(unix.Setgroups([]int{a.GID}), setfsid(a.UID, a.GID)); err != nil {
		return restore, fmt.Errorf("taking the rights of uid %d to files: %w", a.UID, err)
	}
	return restore, nil
}

// setfsid changes the thread's ids for files, the uid last where that takes
// rights away and first where it gives them. The calls return the earlier id and
// no error, so they are asked again.
func setfsid(uid, gid int) error {
	if uid == 0 {
		_ = unix.Setfsuid(uid)
	}
	_ = unix.Setfsgid(gid)
	_ = unix.Setfsuid(uid)
	gotUID, _ := unix.SetfsuidRetUid(uid)
	gotGID, _ := unix.SetfsgidRetGid(gid)
	if gotUID != uid || gotGID != gid {
		return fs.ErrPermission
	}
	return nil
}
