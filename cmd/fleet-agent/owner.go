package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/rights"
)

const (
	// agentUser is the account that the packaged unit runs the agent as.
	agentUser = "fleet-agent"
	// workloadUser is the account that the packages let containers run as.
	workloadUser = "fleet-workload"
)

// handOver gives the state directory to the agent's account when root made it:
// the unit has no right to read root's files.
func handOver(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.Lookup(agentUser)
	if err != nil {
		return nil //nolint:nilerr // without the account the agent runs as root, or as whoever enrolled
	}
	uid, uidErr := strconv.Atoi(account.Uid)
	gid, gidErr := strconv.Atoi(account.Gid)
	if uidErr != nil || gidErr != nil {
		return fmt.Errorf("giving %s to %s: its ids are not numbers", dir, agentUser)
	}
	if err := giveTree(dir, uid, gid); err != nil {
		return fmt.Errorf("giving %s to %s: %w", dir, agentUser, err)
	}
	return nil
}

// giveTree gives a directory to an account with all of root's that is in it. The
// account may be its owner already, and put links there, also while this runs:
// nothing outside of the directory is touched, nor a file that has a second name.
func giveTree(dir string, uid, gid int) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return give(root, path, uid, gid)
	})
}

// give looks at what it gives away, whatever becomes of the name meanwhile.
func give(root *os.Root, path string, uid, gid int) error {
	f, err := root.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || s.Uid != 0 || !info.IsDir() && s.Nlink > 1 {
		return nil
	}
	return unix.Fchownat(int(f.Fd()), "", uid, gid, unix.AT_EMPTY_PATH)
}

// becomeAgent gives up root's rights for those of the account that owns the
// state directory, whose agent is about to be asked.
func becomeAgent(dir string) error {
	if account, other := rights.Of(dir); other {
		return account.Become()
	}
	return nil
}

// inState runs a function that reads and writes the state directory, with no
// more rights than the directory's owner.
func inState(dir string, f func() error) error {
	if account, other := rights.Of(dir); other {
		return account.As(f)
	}
	return f()
}
