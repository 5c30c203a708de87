package link

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// newDialer dials for a Link that was given no dialer. The system ends a connection
// whose other end acknowledged nothing for a while; the default of Linux is some 15
// minutes.
func newDialer() *net.Dialer {
	return &net.Dialer{Timeout: connectTimeout, Control: boundSilence}
}

func boundSilence(_, _ string, raw syscall.RawConn) error {
	var err error
	told := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
	})
	if err = errors.Join(told, err); err != nil {
		return fmt.Errorf("bounding how long a dead connection is waited for: %w", err)
	}
	return nil
}
