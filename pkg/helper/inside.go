package helper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// inside is the program in the user namespace of the containers. It ends with its
// connection, and another one takes its place when podman makes another namespace.
type inside struct {
	mu     sync.Mutex // guards what follows
	userns os.FileInfo
	pipe   *net.UnixConn // nil for none
}

// hand gives a request to the program in a user namespace, with the connection that waits
// for the answer.
func (i *inside) hand(start func(userns, end *os.File) error, userns *os.File, r *request, conn *net.UnixConn) error {
	message, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file, err := conn.File()
	if err != nil {
		return err
	}
	defer file.Close()
	i.mu.Lock()
	defer i.mu.Unlock()
	fresh, err := i.ensure(start, userns)
	if err != nil {
		return fmt.Errorf("%w: %w", errNamespace, err)
	}
	if err = i.write(message, file); err == nil || fresh {
		return err
	}
	// The one of before has ended.
	if _, err := i.ensure(start, userns); err != nil {
		return fmt.Errorf("%w: %w", errNamespace, err)
	}
	return i.write(message, file)
}

// write sends a request with its connection; after a failure there is no program.
func (i *inside) write(message []byte, file *os.File) error {
	_ = i.pipe.SetWriteDeadline(time.Now().Add(handover))
	_, _, err := i.pipe.WriteMsgUnix(message, unix.UnixRights(int(file.Fd())), nil)
	if err != nil {
		i.drop()
	}
	return err
}

// ensure starts a program unless there is one in the namespace.
func (i *inside) ensure(start func(userns, end *os.File) error, userns *os.File) (fresh bool, err error) {
	info, err := userns.Stat()
	if err != nil {
		return false, err
	}
	if i.pipe != nil && os.SameFile(i.userns, info) {
		return false, nil
	}
	i.drop()
	ours, theirs, err := pair()
	if err != nil {
		return false, err
	}
	defer theirs.Close()
	if err := start(userns, theirs); err != nil {
		ours.Close()
		return false, err
	}
	i.userns, i.pipe = info, ours
	return true, nil
}

func (i *inside) drop() {
	if i.pipe != nil {
		i.pipe.Close()
	}
	i.pipe = nil
}

func (i *inside) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.drop()
}

// pair makes a connection: one end of it, and the other one for another program.
func pair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "connection to the helper")
	if ours, err = unixConn(os.NewFile(uintptr(fds[0]), "connection from the helper")); err != nil {
		theirs.Close()
	}
	return ours, theirs, err
}

var errSocketKind = errors.New("it is no socket of the device's own")

// unixConn makes a connection of a file, which it closes.
func unixConn(file *os.File) (*net.UnixConn, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	if unixConn, ok := conn.(*net.UnixConn); ok {
		return unixConn, nil
	}
	conn.Close()
	return nil, errSocketKind
}

// ServeInside answers what a Server outside of the user namespace of the containers hands
// over, until that ends or ctx does. It closes the file.
func ServeInside(ctx context.Context, end *os.File, log *slog.Logger) error {
	pipe, err := unixConn(end)
	if err != nil {
		return fmt.Errorf("taking over the connection: %w", err)
	}
	defer pipe.Close()
	defer context.AfterFunc(ctx, func() { _ = pipe.SetDeadline(time.Unix(1, 0)) })()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, maxRequests)
	for {
		r, conn, err := handed(pipe)
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("taking over a request: %w", err)
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			if err := serveInside(&r, conn); err != nil {
				log.Debug("a request was not answered", "error", err)
			}
		})
	}
}

// handed takes over a request.
func handed(pipe *net.UnixConn) (r request, conn *net.UnixConn, err error) {
	message, rights := make([]byte, maxRequest), make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := pipe.ReadMsgUnix(message, rights)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return r, nil, err
	}
	fds := descriptors(rights[:m])
	if len(fds) != 1 {
		return r, nil, errMessage
	}
	if conn, err = unixConn(os.NewFile(uintptr(fds[0]), "connection of the agent")); err != nil {
		return r, nil, err
	}
	if err = json.Unmarshal(message[:n], &r); err != nil {
		conn.Close()
	}
	return r, conn, err
}

func serveInside(r *request, conn *net.UnixConn) error {
	network, err := openNetwork(r)
	if err != nil {
		return write(conn, answer(failed, err))
	}
	defer network.Close()
	return reach(conn, network, r)
}
