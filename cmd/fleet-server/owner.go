package main

import (
	"fmt"
	"os"
	"syscall"
)

// becomeOwner gives up root's rights for those of the owner of the data
// directory, who is the server's user: what a command writes there belongs to
// the server, and what lies there cannot lead root astray. Whatever needs
// root's rights has to be open by then.
func becomeOwner(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("looking for the data directory: %w: has the server run here?", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	uid, gid := int(owner.Uid), int(owner.Gid)
	for _, change := range []func() error{
		func() error { return syscall.Setgroups([]int{gid}) },
		func() error { return syscall.Setresgid(gid, gid, gid) },
		func() error { return syscall.Setresuid(uid, uid, uid) },
	} {
		if err := change(); err != nil {
			return fmt.Errorf("becoming the owner of %s: %w", dir, err)
		}
	}
	return nil
}
