package podman

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

const (
	// maxExecOutput bounds what is read of a command's output, in bytes.
	maxExecOutput = 4 << 10
	// exitPause is the time between two looks at a command whose output has ended: podman
	// notes a moment later how it ended itself.
	exitPause = 20 * time.Millisecond
)

// Exec implements container.Runtime.
func (c *Client) Exec(ctx context.Context, id string, command []string) (container.Execution, error) {
	session, err := c.newSession(ctx, id, container.Attachment{Command: command})
	if err != nil {
		return container.Execution{}, fmt.Errorf("running a command in container %.12s: %w", id, err)
	}
	done := container.Execution{Session: session}
	done.Output, err = c.startExec(ctx, session)
	if err == nil {
		done.Code, err = c.awaitExec(ctx, session)
	}
	if done.Running = ctx.Err() != nil; done.Running {
		return done, ctx.Err()
	}
	if err != nil {
		return done, fmt.Errorf("running a command in container %.12s: %w", id, err)
	}
	return done, nil
}

// startExec returns the beginning of the output once that has ended.
func (c *Client) startExec(ctx context.Context, session string) ([]byte, error) {
	response, err := c.send(ctx, request{
		method: http.MethodPost, path: "/exec/%s/start", values: []string{session}, body: map[string]any{"Detach": false, "Tty": false},
	})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if !response.IsSuccess() {
		return nil, c.translate(decode(response.Response, 0, nil), nil)
	}
	output := joined(io.LimitReader(response.Body, maxExecOutput))
	_, err = io.Copy(io.Discard, response.Body)
	return output, c.translate(err, nil)
}

// awaitExec returns the exit code of a command whose output has ended. Podman forgets that a
// while after the end, and together with the container: then it is errNoCode.
func (c *Client) awaitExec(ctx context.Context, session string) (int, error) {
	for {
		found, err := c.lookExec(ctx, session)
		if errors.Is(err, container.ErrNotFound) {
			return 0, errNoCode
		}
		if err != nil || !found.Running {
			return found.ExitCode, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(exitPause):
		}
	}
}

// Executing implements container.Runtime.
func (c *Client) Executing(ctx context.Context, session string) (bool, error) {
	found, err := c.lookExec(ctx, session)
	if errors.Is(err, container.ErrNotFound) {
		return false, nil
	}
	return found.Running, err
}

// execution is what podman says of a session.
type execution struct {
	Running  bool
	ExitCode int
}

// lookExec looks at a session. It returns container.ErrNotFound for one that is gone.
func (c *Client) lookExec(ctx context.Context, session string) (found execution, err error) {
	err = c.call(ctx, request{method: http.MethodGet, path: "/exec/%s/json", values: []string{session}}, &found)
	if err != nil {
		return execution{}, fmt.Errorf("looking at a command: %w", err)
	}
	return found, nil
}
