package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
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

// giveTree gives a directory to an account with all that is in it. The account
// may be its owner already, and put links there, also while this runs: nothing
// outside of the directory is touched.
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
		return root.Lchown(path, uid, gid)
	})
}
