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
)

// ErrUnavailable: the helper does not answer, or cannot say anything.
var ErrUnavailable = errors.New("the helper of the workloads' account is unavailable")

// Client asks the helper behind a socket.
type Client struct{ Socket string }

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
		got, _, err := c.ask(ctx, &request{Paths: some, Timeout: patience(ctx, maxLook)}, maxTrail, 0)
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
	got, _, err := c.ask(ctx, &request{Groups: true, Timeout: patience(ctx, maxLook)}, maxReply, 0)
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

// ask makes one request. limit bounds the reply in bytes, most the descriptors that come with
// it, which belong to the caller.
func (c *Client) ask(ctx context.Context, r *request, limit, most int) (reply, []int, error) {
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
	return receive(conn, limit, most)
}

// errMessage: an answer has the wrong form.
var errMessage = errors.New("its answer is none")

// receive takes a reply and what comes with it.
func receive(conn *net.UnixConn, limit, most int) (r reply, fds []int, err error) {
	message, rights := make([]byte, limit), make([]byte, unix.CmsgSpace(4*max(most, 1)))
	n, m, flags, _, err := conn.ReadMsgUnix(message, rights)
	if err != nil {
		return reply{}, nil, err
	}
	fds = descriptors(rights[:m])
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(fds) > most || json.Unmarshal(message[:n], &r) != nil {
		closeFDs(fds)
		return reply{}, nil, errMessage
	}
	return r, fds, nil
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
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
