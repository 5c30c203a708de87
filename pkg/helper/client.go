package helper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/printable"
)

// ErrUnavailable: the helper cannot say anything about the container.
var ErrUnavailable = errors.New("the helper of the workloads' account is unavailable")

// ErrRefused: nothing takes connections at the port.
var ErrRefused = errors.New("connection refused")

// Client asks the helper behind a socket.
type Client struct{ Socket string }

// attempts bounds how often a request is made while the helper moves.
const attempts = 3

// Dial connects to a TCP port in a container, at its own loopback address. container is
// the id, pid the container's first process. It returns ErrRefused, ErrUnavailable, or
// the error of ctx.
func (c *Client) Dial(ctx context.Context, container string, pid int, port uint16) (net.Conn, error) {
	ask := request{Container: container, PID: pid, Port: port, Timeout: maxDial}
	if deadline, ok := ctx.Deadline(); ok {
		ask.Timeout = min(time.Until(deadline), maxDial)
	}
	for range attempts {
		got, conn, err := c.ask(ctx, &ask)
		switch {
		case ctx.Err() != nil:
			closeAll(conn)
			return nil, ctx.Err()
		case err != nil:
			closeAll(conn)
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		case got.Outcome == connected && conn != nil:
			return conn, nil
		}
		closeAll(conn)
		text := printable.Line(got.Text)
		switch got.Outcome {
		case moved:
			continue
		case refused:
			return nil, fmt.Errorf("%w (%s)", ErrRefused, text)
		}
		return nil, fmt.Errorf("%w: %s", ErrUnavailable, text)
	}
	return nil, fmt.Errorf("%w: it does not find its way into the container", ErrUnavailable)
}

func closeAll(conn net.Conn) {
	if conn != nil {
		conn.Close()
	}
}

// ask makes one request.
func (c *Client) ask(ctx context.Context, r *request) (reply, net.Conn, error) {
	dialed, err := new(net.Dialer).DialContext(ctx, network, c.Socket)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return reply{}, nil, errors.New("fleet-helper.socket of the workloads' account does not listen: run fleet-agent doctor --fix") //nolint:err113 // wrapped by ErrUnavailable
	}
	if err != nil {
		return reply{}, nil, err
	}
	defer dialed.Close()
	deadline := time.Now().Add(r.Timeout + handover)
	_ = dialed.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = dialed.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, _ := dialed.(*net.UnixConn)
	message, err := json.Marshal(r)
	if err == nil {
		_, err = conn.Write(message)
	}
	if err != nil {
		return reply{}, nil, err
	}
	return receive(conn)
}

var (
	errMessage = errors.New("its answer is none")
	errSocket  = errors.New("it handed over what is no connection")
)

// receive takes a reply and what comes with it.
func receive(conn *net.UnixConn) (reply, net.Conn, error) {
	message, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, m, flags, _, err := conn.ReadMsgUnix(message, rights)
	if err != nil {
		return reply{}, nil, err
	}
	var handed net.Conn
	for _, fd := range descriptors(rights[:m]) {
		if handed != nil {
			_ = unix.Close(fd)
			continue
		}
		if handed, err = adopt(fd); err != nil {
			return reply{}, nil, err
		}
	}
	var r reply
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || json.Unmarshal(message[:n], &r) != nil {
		closeAll(handed)
		return reply{}, nil, errMessage
	}
	return r, handed, nil
}

func descriptors(rights []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil
	}
	for i := range messages {
		if some, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, some...)
		}
	}
	return fds
}

// adopt makes a connection of a descriptor, which it owns. The agent reads from it and
// writes to it: it must be nothing but a connected TCP socket.
func adopt(fd int) (net.Conn, error) {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err == nil && protocol == unix.IPPROTO_TCP {
		_, err = unix.Getpeername(fd)
	} else if err == nil {
		err = errSocket
	}
	file := os.NewFile(uintptr(fd), "connection")
	defer file.Close()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSocket, err)
	}
	return net.FileConn(file)
}
