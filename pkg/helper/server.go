package helper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxRequests bounds the requests that are answered at one time.
const maxRequests = 64

// Server answers a Client. It runs as the account that the containers belong to.
type Server struct {
	// Move makes the process go on inside of the user namespace that a file stands for, as
	// a new program with the same listener. It returns only if that fails. nil for a
	// process that went there.
	Move func(userns *os.File) error
	Log  *slog.Logger
}

// ErrElsewhere: the containers are in a user namespace that this process cannot enter. It
// has to end: another one can, which systemd starts.
var ErrElsewhere = errors.New("the containers have another user namespace")

// Serve answers until ctx ends. It may return ErrElsewhere.
func (s *Server) Serve(ctx context.Context, listener *net.UnixListener) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(ctx, func() { _ = listener.SetDeadline(time.Unix(1, 0)) })()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, maxRequests)
	for {
		conn, err := listener.AcceptUnix()
		switch {
		case ctx.Err() != nil && errors.Is(context.Cause(ctx), ErrElsewhere):
			return ErrElsewhere
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("accepting the agent: %w", err)
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			if err := s.serve(ctx, conn); errors.Is(err, ErrElsewhere) {
				end(err)
			} else if err != nil {
				s.Log.Debug("a request was not answered", "error", err)
			}
		})
	}
}

// serve answers one request.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) error {
	r, err := read(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	network, err := openNetwork(&r)
	if err != nil {
		return write(conn, answer(failed, err), nil)
	}
	defer network.Close()
	userns, err := ownerOf(network)
	if err != nil {
		return write(conn, answer(failed, err), nil)
	}
	if userns != nil {
		defer userns.Close()
		return s.move(conn, userns)
	}
	dialed, err := dialInside(ctx, network, r.Port)
	switch {
	case errors.Is(err, errNamespace):
		return write(conn, answer(failed, err), nil)
	case err != nil:
		return write(conn, answer(refused, err), nil)
	}
	defer dialed.Close()
	return write(conn, answer(connected, nil), dialed)
}

// move goes to where the containers are.
func (s *Server) move(conn *net.UnixConn, userns *os.File) error {
	if err := write(conn, answer(moved, nil), nil); err != nil {
		return err
	}
	if s.Move == nil {
		return ErrElsewhere
	}
	s.Log.Info("going to the user namespace of the containers")
	if err := s.Move(userns); err != nil {
		s.Log.Error("the user namespace of the containers cannot be entered", "error", err)
		return ErrElsewhere
	}
	return nil
}

func read(conn *net.UnixConn) (r request, err error) {
	_ = conn.SetDeadline(time.Now().Add(handover))
	message := make([]byte, maxMessage)
	n, err := conn.Read(message)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(message[:n], &r); err != nil {
		return r, err
	}
	return r, r.validate()
}

// write sends a reply and, unless it is nil, a connection.
func write(conn *net.UnixConn, r reply, dialed *net.TCPConn) error {
	_ = conn.SetDeadline(time.Now().Add(handover))
	message, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var rights []byte
	if dialed != nil {
		file, err := dialed.File()
		if err != nil {
			return err
		}
		defer file.Close()
		rights = unix.UnixRights(int(file.Fd()))
	}
	_, _, err = conn.WriteMsgUnix(message, rights, nil)
	return err
}
