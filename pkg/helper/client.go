package helper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/helper/trail"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// ErrUnavailable: the helper does not answer, or cannot say anything.
var ErrUnavailable = errors.New("the helper of the workloads' account is unavailable")

// ErrRefused: nothing takes connections at the port.
var ErrRefused = errors.New("connection refused")

// Client asks the helper behind a socket.
type Client struct{ Socket string }

// Dial connects to a TCP port in a container, at its own loopback address. container is
// the id, pid the container's first process. It returns ErrRefused, ErrUnavailable, or
// the error of ctx.
func (c *Client) Dial(ctx context.Context, container string, pid int, port uint16) (net.Conn, error) {
	got, conn, err := c.ask(ctx, &request{Container: container, PID: pid, Port: port, Timeout: patience(ctx, maxDial)}, maxReply)
	if err == nil && got.Outcome == connected && conn != nil {
		return conn, nil
	}
	closeAll(conn)
	if err == nil && got.Outcome == refused {
		return nil, fmt.Errorf("%w (%s)", ErrRefused, printable.Line(got.Text))
	}
	return nil, c.failure(ctx, &got, err)
}

// failure is why an answer is not what was asked for.
func (*Client) failure(ctx context.Context, got *reply, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %s", ErrUnavailable, line(got.Text))
}

func patience(ctx context.Context, longest time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(time.Until(deadline), longest)
	}
	return longest
}

// Look says what lies along paths, as the account of the workloads sees it: one question
// for what fits into one, which is a few dozen paths. It returns ErrUnavailable or the
// error of ctx. The trail is that account's word.
func (c *Client) Look(ctx context.Context, paths []string) (trail.Trail, error) {
	all := trail.Trail{}
	for some := range batches(paths) {
		got, conn, err := c.ask(ctx, &request{Paths: some, Timeout: patience(ctx, maxLook)}, maxTrail)
		closeAll(conn)
		if err != nil || got.Outcome != seen {
			return nil, c.failure(ctx, &got, err)
		}
		maps.Copy(all, got.Trail)
	}
	return all, nil
}

// Groups are the groups of the account as its processes have them, which learn of another one
// at the account's next login. It returns ErrUnavailable or the error of ctx.
func (c *Client) Groups(ctx context.Context) ([]uint32, error) {
	got, conn, err := c.ask(ctx, &request{Groups: true, Timeout: patience(ctx, maxLook)}, maxReply)
	closeAll(conn)
	if err != nil || got.Outcome != seen {
		return nil, c.failure(ctx, &got, err)
	}
	return got.Groups, nil
}

// batches are paths as far as one question goes, each once.
func batches(paths []string) iter.Seq[[]string] {
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	return func(yield func([]string) bool) {
		for len(paths) > 0 {
			n, bytes := 1, len(paths[0])
			for n < min(len(paths), maxPaths) && bytes+len(paths[n]) <= maxPathBytes {
				bytes += len(paths[n])
				n++
			}
			if !yield(paths[:n]) {
				return
			}
			paths = paths[n:]
		}
	}
}

func closeAll(conn net.Conn) {
	if conn != nil {
		conn.Close()
	}
}

// ask makes one request. limit bounds the reply in bytes.
func (c *Client) ask(ctx context.Context, r *request, limit int) (reply, net.Conn, error) {
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
	return receive(conn, limit)
}

var (
	errMessage = errors.New("its answer is none")
	errSocket  = errors.New("it handed over what is no connection")
)

// receive takes a reply and what comes with it.
func receive(conn *net.UnixConn, limit int) (reply, net.Conn, error) {
	message, rights := make([]byte, limit), make([]byte, unix.CmsgSpace(4))
	n, m, flags, _, err := conn.ReadMsgUnix(message, rights)
	if err != nil {
		return reply{}, nil, err
	}
	var handed net.Conn
	for i, fd := range descriptors(rights[:m]) {
		if i > 0 {
			_ = unix.Close(fd)
			continue
		}
		handed, err = adopt(fd)
	}
	if err != nil {
		return reply{}, nil, err
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
	handed, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return newConn(handed)
}
