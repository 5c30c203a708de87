// Package pty makes terminals: the two ends of one that no other program has. It
// imports nothing of the project, so that both sides and their tests may import it.
package pty

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open returns the two ends of a new terminal: one's own, which knows deadlines, and
// that of a process. Neither becomes the terminal of this process.
func Open() (own, process *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a terminal: %w", err)
	}
	own = os.NewFile(uintptr(fd), "/dev/ptmx") // with deadlines, as it does not block
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		process, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("making a terminal: %w", err), own.Close())
	}
	return own, process, nil
}
