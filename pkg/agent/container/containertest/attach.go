package containertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// First words of commands for Attach: EchoCommand writes what it reads, SizeCommand the rows
// and columns of its terminal.
const (
	EchoCommand = "echo"
	SizeCommand = "size"
)

// notThere is the exit code of a command that is not there.
const notThere = 127

// Attach implements container.Runtime.
func (f *Fake) Attach(ctx context.Context, id string, e container.Attachment) (int, error) {
	f.mu.Lock()
	c, down := f.containers[id], f.down
	running := c != nil && c.State == container.StateRunning
	f.mu.Unlock()
	switch {
	case down != nil:
		return 0, down
	case c == nil:
		return 0, container.ErrNotFound
	case !running:
		return 0, errors.New("the container does not run")
	}
	if e.Terminal {
		e.Err = e.Out
	}
	switch e.Command[0] {
	case ExitCommand:
		Farewell(e.Out, e.Err, e.Command[1])
		return strconv.Atoi(e.Command[1])
	case EchoCommand:
		if e.In == nil {
			return 0, nil
		}
		_, err := io.Copy(e.Out, e.In)
		return 0, err
	case SizeCommand:
		_, err := fmt.Fprintf(e.Out, "%d %d\r\n", e.Size.Rows, e.Size.Columns)
		return 0, err
	case MissingCommand:
		_, err := fmt.Fprintf(e.Err, "executable file %q not found in $PATH\n", MissingCommand)
		return notThere, err
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

func testAttach(t *testing.T, s Subject) {
	id := s.run(t, s.spec(t, "attach", s.Sleep))
	attach := func(e container.Attachment) (code int, out, errs string) {
		t.Helper()
		var outs, err bytes.Buffer
		e.Out, e.Err = &outs, &err
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		code, failure := s.Runtime.Attach(ctx, id, e)
		if failure != nil {
			t.Fatal(failure)
		}
		return code, outs.String(), err.String()
	}
	if code, out, errs := attach(container.Attachment{Command: s.Exit("3")}); code != 3 || !strings.HasSuffix(out, "line 19\n") || errs != "ends with 3\n" {
		t.Errorf("code %d, wrote %q and %q", code, out, errs)
	}
	if code, out, errs := attach(container.Attachment{Command: s.Exit("4"), Terminal: true}); code != 4 || !strings.HasSuffix(strings.TrimSpace(out), "ends with 4") || errs != "" {
		t.Errorf("on a terminal: code %d, wrote %q and %q", code, out, errs)
	}
	large := strings.Repeat("0123456789abcdef", 16<<10)
	if code, out, _ := attach(container.Attachment{Command: s.Echo, In: strings.NewReader(large)}); code != 0 || out != large {
		t.Errorf("code %d, %d of %d bytes came back", code, len(out), len(large))
	}
	if code, out, _ := attach(container.Attachment{Command: s.Echo}); code != 0 || out != "" {
		t.Errorf("without input: code %d, wrote %q", code, out)
	}
	size := container.Attachment{Command: s.Size, Terminal: true, Size: container.Size{Rows: 33, Columns: 77}}
	if code, out, _ := attach(size); code != 0 || out != "33 77\r\n" {
		t.Errorf("code %d, its terminal has %q", code, out)
	}
	if code, out, errs := attach(container.Attachment{Command: []string{MissingCommand}}); code != notThere || !strings.Contains(out+errs, MissingCommand) {
		t.Errorf("a command that is not there: code %d, %q and %q", code, out, errs)
	}
	testAttachEnds(t, s, id)
}

// testAttachEnds: a command is left when nobody waits for it, and none begins where nothing
// runs.
func testAttachEnds(t *testing.T, s Subject, id string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.Runtime.Attach(ctx, id, container.Attachment{Command: s.Sleep, Out: io.Discard, Err: io.Discard}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("left: %v", err)
	}
	if err := s.Runtime.Stop(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Runtime.Attach(t.Context(), id, container.Attachment{Command: s.Echo, Out: io.Discard, Err: io.Discard}); err == nil {
		t.Error("a command runs in a container that does not")
	}
	if _, err := s.Runtime.Attach(t.Context(), strings.Repeat("0", 64), container.Attachment{Command: s.Echo}); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("in a container that is gone: %v", err)
	}
}
