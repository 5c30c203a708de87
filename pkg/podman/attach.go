package podman

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// exitPatience is how long podman may take to note the exit code of a command whose output
// has ended.
const exitPatience = 10 * time.Second

// errNoCode: the output of a command ended, and podman does not say with which code it
// did. The command may go on.
var errNoCode = errors.New("podman does not say with which exit code the command ended")

// Attach implements container.Runtime. Podman's own words about a command that it cannot
// start are part of the output, and the code is 126 or 127 then, or 125.
func (c *Client) Attach(ctx context.Context, id string, e container.Attachment) (code int, err error) {
	session, err := c.newSession(ctx, id, e)
	if err == nil {
		err = c.attach(ctx, session, e)
	}
	if err == nil {
		code, err = c.exitCode(ctx, session)
	}
	if err != nil {
		return 0, fmt.Errorf("running a command in container %.12s: %w", id, err)
	}
	return code, nil
}

func (c *Client) newSession(ctx context.Context, container string, e container.Attachment) (session string, err error) {
	var reply struct {
		ID id `json:"Id"`
	}
	create := struct {
		AttachStdin, AttachStdout, AttachStderr, Tty bool
		Cmd                                          []string
	}{e.In != nil, true, true, e.Terminal, e.Command}
	err = c.call(ctx, request{method: http.MethodPost, path: "/containers/%s/exec", values: []string{container}, body: create, aside: true}, &reply)
	return string(reply.ID), err
}

// attach starts a session, and connects it until it ends.
func (c *Client) attach(ctx context.Context, session string, e container.Attachment) error {
	stream, err := c.start(ctx, session, e)
	if err != nil {
		return err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()
	go func() {
		if e.In != nil {
			_, _ = io.Copy(stream, e.In) // the command may end before it has read all
		}
		if half, ok := stream.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	resizing, done := context.WithCancel(ctx)
	resized := make(chan struct{})
	go func() {
		defer close(resized)
		c.resize(resizing, session, e)
	}()
	err = output(stream, e)
	done()
	<-resized
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// start starts a session, and returns the stream to it.
func (c *Client) start(ctx context.Context, session string, e container.Attachment) (io.ReadWriteCloser, error) {
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(c.work, cancel)
	body := struct {
		Detach bool
		Tty    bool
		Height uint16 `json:"h"`
		Width  uint16 `json:"w"`
	}{false, e.Terminal, e.Size.Rows, e.Size.Columns}
	response, err := c.send(starting, request{
		method: http.MethodPost, path: "/exec/%s/start", values: []string{session}, body: body,
		header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}},
	})
	if !late.Stop() && err != nil && ctx.Err() == nil {
		err = unavailable(c.find(), errSilent)
	}
	if err != nil {
		return nil, err
	}
	stream, ok := response.Body.(io.ReadWriteCloser)
	if response.StatusCode == http.StatusSwitchingProtocols && ok {
		return stream, nil
	}
	defer response.Body.Close()
	if err = decode(response.Response, 0, nil); err == nil {
		err = fmt.Errorf("%w: status %d", errProtocol, response.StatusCode)
	}
	return nil, c.translate(err, nil)
}

// output passes on what a command writes, until it ends. Errors of the writers are
// returned as they are.
func output(stream io.Reader, e container.Attachment) error {
	if e.Terminal {
		_, err := io.Copy(e.Out, stream)
		return err
	}
	return frames(stream, false, func(p container.Piece) error {
		to := e.Out
		if p.Stderr {
			to = e.Err
		}
		_, err := to.Write(p.Text)
		return err
	})
}

// resize gives the terminal of a session its sizes. The first comes once more: podman 4.3
// does not take it at the start. That it fails is no reason to end a command.
func (c *Client) resize(ctx context.Context, session string, e container.Attachment) {
	for size, ok := e.Size, e.Terminal && e.Size != (container.Size{}); ok; {
		query := url.Values{"h": {strconv.Itoa(int(size.Rows))}, "w": {strconv.Itoa(int(size.Columns))}}
		_ = c.call(ctx, request{method: http.MethodPost, path: "/exec/%s/resize", values: []string{session}, query: query, aside: true}, nil)
		select {
		case <-ctx.Done():
			return
		case size, ok = <-e.Sizes:
		}
	}
}

// exitCode waits until podman notes that a session ended, but not for ever.
func (c *Client) exitCode(ctx context.Context, session string) (int, error) {
	patient, cancel := context.WithTimeout(ctx, c.exit)
	defer cancel()
	code, err := c.awaitExec(patient, session)
	if err != nil && patient.Err() != nil && ctx.Err() == nil {
		err = errNoCode
	}
	return code, err
}
