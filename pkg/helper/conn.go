package helper

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// conn is a connection that was handed over. Whoever did so still has the socket, and can
// take away its flag O_NONBLOCK at any moment, without which no deadline ends a read; so
// each call says by itself that it does not wait.
type conn struct {
	net.Conn // of *net.TCPConn nothing but this, which is what uses Read and Write

	raw syscall.RawConn
}

var errNoStream = errors.New("it is no stream")

// newConn takes over a connection.
func newConn(c net.Conn) (net.Conn, error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		c.Close()
		return nil, errNoStream
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	return &conn{Conn: tcp, raw: raw}, nil
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (n int, err error) {
	waitErr := c.raw.Read(func(fd uintptr) bool {
		n, err = again(func() (int, error) {
			n, _, err := unix.Recvfrom(int(fd), p, unix.MSG_DONTWAIT)
			return n, err
		})
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case waitErr != nil:
		return 0, waitErr
	case err != nil:
		return 0, c.failure("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (written int, err error) {
	waitErr := c.raw.Write(func(fd uintptr) bool {
		for written < len(p) && err == nil {
			var n int
			n, err = again(func() (int, error) {
				return unix.SendmsgN(int(fd), p[written:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			})
			written += max(n, 0)
		}
		if errors.Is(err, unix.EAGAIN) {
			err = nil
			return false
		}
		return true
	})
	if waitErr != nil {
		return written, waitErr
	}
	if err != nil {
		return written, c.failure("write", err)
	}
	return written, nil
}

// Close implements net.Conn. It does not wait for what was written to arrive, either.
func (c *conn) Close() error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(-1) // fails for closed ones
	}
	return c.Conn.Close()
}

func (c *conn) failure(operation string, err error) error {
	return &net.OpError{Op: operation, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(operation, err)}
}

// again makes a call until no signal interrupts it.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
