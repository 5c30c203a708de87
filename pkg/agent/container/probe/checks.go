package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"unicode/utf8"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// Dialer connects to ports in containers; helper.Dialer is one. Errors that say nothing
// about the container wrap helper.ErrUnavailable.
type Dialer interface {
	Dial(ctx context.Context, container string, pid int, port uint16) (net.Conn, error)
}

// Runtime runs commands in containers; container.Runtime is one.
type Runtime interface {
	Exec(ctx context.Context, id string, command []string) (container.Execution, error)
	Executing(ctx context.Context, session string) (bool, error)
}

// Checks is the Checker for containers. Make it with NewChecks.
type Checks struct {
	dialer  Dialer
	runtime Runtime

	mu sync.Mutex // guards hung
	// hung are the sessions of commands that did not end in time, by container: a
	// command that never ends is run once, and not again every few seconds.
	hung map[string]string
}

// NewChecks returns a Checker.
func NewChecks(dialer Dialer, runtime Runtime) *Checks {
	return &Checks{dialer: dialer, runtime: runtime, hung: map[string]string{}}
}

// Check implements Checker.
func (c *Checks) Check(ctx context.Context, t *Target, p *container.Probe) error {
	switch {
	case p.HTTP != nil:
		return c.http(ctx, t, p.HTTP)
	case p.GRPC != nil:
		return c.grpc(ctx, t, p.GRPC)
	case p.TCP != 0:
		return c.tcp(ctx, t, p.TCP)
	}
	return c.exec(ctx, t, p.Exec)
}

func (c *Checks) dial(ctx context.Context, t *Target, port uint16) (net.Conn, error) {
	conn, err := c.dialer.Dial(ctx, t.ID, t.PID, port)
	switch {
	case errors.Is(err, helper.ErrUnavailable):
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	case err != nil:
		return nil, fmt.Errorf("port %d: %w", port, err)
	}
	return conn, nil
}

func (c *Checks) tcp(ctx context.Context, t *Target, port uint16) error {
	conn, err := c.dial(ctx, t, port)
	if err != nil {
		return err
	}
	return conn.Close()
}

// exec runs a command, unless that of an earlier attempt still runs.
func (c *Checks) exec(ctx context.Context, t *Target, command []string) error {
	name := clip(command[0], maxShown)
	key := t.ID + "\x00" + strings.Join(command, "\x00")
	c.mu.Lock()
	session, hung := c.hung[key]
	c.mu.Unlock()
	if hung {
		runs, err := c.runtime.Executing(ctx, session)
		if err != nil {
			return fmt.Errorf("%w: command %s: %w", ErrUnknown, name, err)
		}
		if runs {
			return fmt.Errorf("command %s has not ended since an earlier attempt", name)
		}
	}
	done, err := c.runtime.Exec(ctx, t.ID, command)
	c.mu.Lock()
	if delete(c.hung, key); done.Running {
		c.hung[key] = done.Session
	}
	c.mu.Unlock()
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("command %s: %w", name, ctx.Err())
	case err != nil:
		return fmt.Errorf("%w: command %s: %w", ErrUnknown, name, err)
	case done.Code == 0:
		return nil
	}
	text := fmt.Sprintf("command %s exited with code %d", name, done.Code)
	if output := clip(string(done.Output), maxShown); output != "" {
		text += ": " + output
	}
	return fmt.Errorf("%s", text) //nolint:err113 // the text is all that there is to it
}

// maxShown bounds what is shown of what a container says, in bytes.
const maxShown = 128

// clip is the beginning of a text in one line.
func clip(text string, limit int) string {
	text = printable.Squeeze(strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) <= limit {
		return text
	}
	text = text[:limit]
	for text != "" && !utf8.ValidString(text) {
		text = text[:len(text)-1]
	}
	return text + "…"
}
