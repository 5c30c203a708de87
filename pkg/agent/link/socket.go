package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/agent/proxy"
)

// newDialer dials for a Link that was given no dialer. The system ends a connection
// whose other end acknowledged nothing for a while; the default of Linux is some 15
// minutes. It asks for no sign of life: heartbeats do, and twice as many packets would
// cost a device on a metered link half as much again.
func newDialer() *net.Dialer {
	return &net.Dialer{Timeout: connectTimeout, KeepAlive: -1, Control: boundSilence}
}

// way makes a dialer one of the NATS client's.
type way struct{ proxy.Dialer }

// Dial implements nats.CustomDialer.
func (w way) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*connectTimeout)
	defer cancel()
	return w.DialContext(ctx, network, address)
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
