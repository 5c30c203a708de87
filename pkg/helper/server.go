package helper

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/helper/storage"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
	"fleet.nationtech.io/fleet/pkg/unixserve"
)

const (
	// maxRequests bounds the requests that are answered at one time, maxWalks the looks
	// among them: one on a file system that hangs ends when that does.
	maxRequests, maxWalks = 64, 4
	// maxFlushes bounds those who wait for the disk, of whom there is one for each pull.
	maxFlushes = 4
)

// Server answers a Client. It runs as the account that the containers belong to, and
// outside of their user namespace, where the owners of files are those of the device.
type Server struct {
	// Enter starts a program that calls ServeInside inside of the user namespace that a
	// file stands for, with a connection from the Server. The Server closes both files.
	Enter func(userns, end *os.File) error
	// Storage repairs podman's storage; without a root there is none.
	Storage storage.Mender
	// Mirrors is the file that tells podman of mirrors; empty for none. Reload lets podman
	// read it again.
	Mirrors string
	Reload  func(ctx context.Context) error
	// Names is the directory where podman's server of names has its files; empty for none.
	Names string
	// Networks are isolated when it begins.
	Networks Networks
	Log      *slog.Logger

	inside inside
	walks  chan struct{} // a counting semaphore
	stores chan struct{} // one looks at the storage at a time
	// flushes is a counting semaphore: the kernel can be interrupted by nothing.
	flushes chan struct{}
}

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context, listener *net.UnixListener) error {
	s.walks, s.stores, s.flushes = make(chan struct{}, maxWalks), make(chan struct{}, 1), make(chan struct{}, maxFlushes)
	defer s.inside.close()
	s.isolate()
	return unixserve.Serve(ctx, listener, maxRequests, func(conn *net.UnixConn) error { return s.serve(ctx, conn) }, func(err error) {
		s.Log.Debug("a request was not answered", "error", err)
	})
}

// isolate isolates what earlier agents made. Whoever asks meanwhile waits: it takes no longer
// than to read a few files.
func (s *Server) isolate() {
	names, err := s.Networks.Isolate()
	for _, name := range names {
		s.Log.Info("a network of an earlier agent is isolated from the next start of a container in it on", "network", name)
	}
	if err != nil {
		s.Log.Warn("networks of an earlier agent are not isolated", "error", err)
	}
}

// serve answers one request, or has it answered.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) error {
	r, err := read(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	switch {
	case r.Groups:
		return write(conn, groups())
	case r.Names:
		return write(conn, s.names())
	case r.Monitor != "":
		return write(conn, endMonitor(r.Monitor))
	case r.Mirror != "":
		return write(conn, s.mirror(ctx, &r))
	case r.Storage != "":
		return write(conn, s.tend(ctx, r.Storage))
	case len(r.Paths) > 0:
		return write(conn, s.look(ctx, r.Paths))
	}
	network, err := openNetwork(&r)
	if err != nil {
		return write(conn, answer(failed, err))
	}
	defer network.Close()
	userns, err := ownerOf(network)
	if err == nil && userns != nil {
		defer userns.Close()
		if err = s.inside.hand(s.Enter, userns, &r, conn); err == nil {
			return nil
		}
	}
	if err != nil {
		return write(conn, answer(failed, err))
	}
	return reach(conn, network, &r)
}

// reach answers with sockets of the network of a container.
func reach(conn *net.UnixConn, network *os.File, r *request) error {
	fds, err := socketsInside(network, r.Sockets, r.Six)
	if err != nil {
		return write(conn, answer(failed, err))
	}
	defer closeFDs(fds)
	return write(conn, answer(stocked, nil), fds...)
}

// groups answers with the groups of this process. They are those of podman's, too: both are
// children of the account's systemd.
func groups() reply {
	ids, err := os.Getgroups()
	if err != nil {
		return answer(failed, err)
	}
	r := reply{Outcome: seen}
	for _, id := range ids[:min(len(ids), maxGroups)] {
		r.Groups = append(r.Groups, uint32(id)) //nolint:gosec // ids are positive
	}
	return r
}

var errBusy = errors.New("a file system does not answer it")

// look says what lies along paths. The kernel may never answer, as about a server of files
// that is away.
func (s *Server) look(ctx context.Context, paths []string) reply {
	return outlasting(ctx, s.walks, errBusy, func() reply { return reply{Outcome: seen, Trail: trail.Walk(paths)} })
}

// outlasting answers by what may outlast its question, in one of the places that there are
// for it. Without a place, or in time, the answer is that it is busy.
func outlasting(ctx context.Context, places chan struct{}, busy error, do func() reply) reply {
	select {
	case places <- struct{}{}:
	default:
		return answer(failed, busy)
	}
	done := make(chan reply, 1)
	go func() {
		defer func() { <-places }()
		done <- do()
	}()
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
		return answer(failed, busy)
	}
}

func read(conn *net.UnixConn) (r request, err error) {
	_ = conn.SetDeadline(time.Now().Add(handover))
	message := make([]byte, maxRequest)
	n, err := conn.Read(message)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(message[:n], &r); err != nil {
		return r, err
	}
	return r, r.validate()
}

var errTooLong = errors.New("what lies along the paths is too much to tell: use fewer or shorter ones")

// write sends a reply, and sockets with it.
func write(conn *net.UnixConn, r reply, fds ...int) error {
	_ = conn.SetDeadline(time.Now().Add(handover))
	message, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(message) > maxTrail {
		return write(conn, answer(failed, errTooLong))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(message, rights, nil)
	return err
}
