package rights

import (
	"context"
	"os/exec"
	"syscall"
	"time"
)

// searchPath is where programs of a distribution and of its administrator lie.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// waitDelay is how long pipes stay open that the process left to others.
const waitDelay = 2 * time.Second

// Command returns a process of the account: in a session of its own, so that it
// has no terminal, with an environment that has nothing of root's, and with no
// descriptors but those that the caller adds. These must be pipes: os/exec makes
// some for writers and readers that are no files. The process is ended when ctx
// is.
func (a Account) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{searchPath, "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.WaitDelay = waitDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Credential: &syscall.Credential{Uid: uint32(a.UID), Gid: uint32(a.GID)}, //nolint:gosec // ids are positive
	}
	return cmd
}
