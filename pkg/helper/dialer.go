package helper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/printable"
)

// ErrRefused: nothing takes connections at the port.
var ErrRefused = errors.New("connection refused")

var errSocket = errors.New("it handed over what is no socket to connect")

// keepSockets is how long sockets are kept that nobody uses: they keep the network of a
// container.
const keepSockets = 2 * time.Minute

// Dialer connects to ports in containers. It has the helper make sockets of a container's
// network, several at a time, and connects them itself: a socket stays in the network that
// it was made in. So most connections take no question.
type Dialer struct {
	Client *Client

	mu     sync.Mutex // guards stores
	stores map[storeKey]*store
}

// storeKey names the network of one run of a container.
type storeKey struct {
	container string
	pid       int
	six       bool
}

// store has sockets that were not connected yet.
type store struct {
	fds   []int
	timer *time.Timer
}

// Dial connects to a TCP port in a container, at its own loopback address. container is
// the id, pid the container's first process. It returns ErrRefused, ErrUnavailable, or
// the error of ctx.
func (d *Dialer) Dial(ctx context.Context, container string, pid int, port uint16) (net.Conn, error) {
	conn, err := d.dial(ctx, storeKey{container: container, pid: pid}, port)
	if errors.Is(err, ErrRefused) {
		// Where there is no IPv6, the helper makes no sockets of it.
		if six, sixErr := d.dial(ctx, storeKey{container, pid, true}, port); sixErr == nil {
			return six, nil
		}
	}
	return conn, err
}

func (d *Dialer) dial(ctx context.Context, key storeKey, port uint16) (net.Conn, error) {
	fd, err := d.take(ctx, key)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- connect(ctx, fd, loopback(key.six, port)) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		// Whoever made the socket can have everybody wait who connects it, but for this.
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		err = cmp.Or(<-done, ctx.Err())
	}
	if err == nil {
		return adopt(fd)
	}
	_ = unix.Close(fd)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.EISCONN):
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil, fmt.Errorf("%w (%s)", ErrRefused, printable.Line(err.Error()))
}

// take takes a socket from the store, which the helper fills.
func (d *Dialer) take(ctx context.Context, key storeKey) (fd int, err error) {
	if fd, ok := d.stocked(key); ok {
		return fd, nil
	}
	r := request{Container: key.container, PID: key.pid, Sockets: maxSockets, Six: key.six, Timeout: patience(ctx, maxDial)}
	got, fds, err := d.Client.ask(ctx, &r, maxReply, maxSockets)
	if err != nil || got.Outcome != stocked || len(fds) == 0 {
		closeFDs(fds)
		return 0, d.Client.failure(ctx, &got, err)
	}
	for _, fd := range fds {
		if err := fresh(fd); err != nil {
			closeFDs(fds)
			return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	d.put(key, fds[1:])
	return fds[0], nil
}

// stocked takes a socket that is there.
func (d *Dialer) stocked(key storeKey) (fd int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stores[key]
	if s == nil || len(s.fds) == 0 {
		return 0, false
	}
	fd, s.fds = s.fds[0], s.fds[1:]
	s.timer.Reset(keepSockets)
	return fd, true
}

func (d *Dialer) put(key storeKey, fds []int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stores[key]
	if s == nil {
		s = &store{timer: time.AfterFunc(keepSockets, func() { d.drop(key) })}
		if d.stores == nil {
			d.stores = map[storeKey]*store{}
		}
		d.stores[key] = s
	}
	s.timer.Reset(keepSockets)
	s.fds = append(s.fds, fds...)
}

func (d *Dialer) drop(key storeKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.stores[key]; s != nil {
		s.timer.Stop()
		closeFDs(s.fds)
		delete(d.stores, key)
	}
}

// Close closes the sockets that nobody took.
func (d *Dialer) Close() {
	d.mu.Lock()
	keys := make([]storeKey, 0, len(d.stores))
	for key := range d.stores {
		keys = append(keys, key)
	}
	d.mu.Unlock()
	for _, key := range keys {
		d.drop(key)
	}
}

func loopback(six bool, port uint16) unix.Sockaddr {
	if six {
		return &unix.SockaddrInet6{Port: int(port), Addr: [16]byte{15: 1}}
	}
	return &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}
}

// fresh checks that a descriptor is a TCP socket that is not connected. The agent reads from
// it and writes to it: it must be nothing else.
func fresh(fd int) error {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil || protocol != unix.IPPROTO_TCP {
		return errSocket
	}
	if _, err := unix.Getpeername(fd); !errors.Is(err, unix.ENOTCONN) {
		return errSocket
	}
	return nil
}

// adopt makes a connection of a descriptor, which it owns.
func adopt(fd int) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "connection")
	defer file.Close()
	handed, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return newConn(handed)
}

// connectPause is how long a connection is waited for between two looks at ctx.
const connectPause = 50 * time.Millisecond

// connect connects a socket, until ctx ends.
func connect(ctx context.Context, fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	for errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.EALREADY) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}} //nolint:gosec // a descriptor
		if n, pollErr := unix.Poll(poll, int(connectPause.Milliseconds())); n == 0 || pollErr != nil {
			continue
		}
		code, optErr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case optErr != nil:
			return optErr
		case code != 0:
			return unix.Errno(code)
		}
		return nil
	}
	return err
}
