package rights

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"fleet.nationtech.io/fleet/pkg/pty"
)

// Streams are what a person works with. In may be nil.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Run runs a process that Command returned, and connects it with a person. What
// the process gets are pipes; or a terminal of its own when all three streams are
// terminals, which an editor needs. So it can never type into that of root. An
// error wraps *exec.ExitError when the process ended with another status than 0.
func Run(ctx context.Context, cmd *exec.Cmd, s Streams) error {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if person, ok := s.terminal(); ok {
		return runOnTerminal(ctx, cmd, person)
	}
	// Not os/exec's own: Wait would wait for somebody to type.
	if s.In != nil {
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(in, s.In) // the process may end before it has read all
			_ = in.Close()
		}()
	}
	cmd.Stdout, cmd.Stderr = pipeTo{s.Out}, pipeTo{s.Err}
	return cmd.Run()
}

// pipeTo hides that a writer is a file, so that os/exec makes a pipe.
type pipeTo struct{ io.Writer }

// terminal returns the terminal that a person sits at, if this process may read
// what they type.
func (s Streams) terminal() (*os.File, bool) {
	for _, stream := range []any{s.In, inner(s.Out), inner(s.Err)} {
		if f, ok := stream.(*os.File); !ok || f == nil || !term.IsTerminal(int(f.Fd())) {
			return nil, false
		}
	}
	person := s.In.(*os.File)
	group, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPGRP)
	return person, err == nil && group == unix.Getpgrp()
}

// inner is the writer that another one passes its text on to, if it is such a one.
func inner(w io.Writer) io.Writer {
	if wrapped, ok := w.(interface{ Unwrap() io.Writer }); ok {
		return wrapped.Unwrap()
	}
	return w
}

func runOnTerminal(ctx context.Context, cmd *exec.Cmd, person *os.File) error {
	own, process, err := openTerminal(cmd)
	if err != nil {
		return err
	}
	defer own.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = process, process, process
	cmd.SysProcAttr.Setctty = true // of descriptor 0
	follow := followSize(person, own)
	defer follow()
	before, err := term.MakeRaw(int(person.Fd()))
	if err != nil {
		return errors.Join(err, process.Close())
	}
	defer func() {
		// A terminal answers to some of what is written to it: not to root's shell.
		_ = unix.IoctlSetInt(int(person.Fd()), unix.TCFLSH, unix.TCIFLUSH)
		_ = term.Restore(int(person.Fd()), before)
	}()
	err = cmd.Start()
	if e := process.Close(); e != nil || err != nil {
		return errors.Join(err, e)
	}
	go func() { _, _ = io.Copy(own, person) }() // until this process ends
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		_, _ = io.Copy(person, own) // ends with an error when the terminal has no user any more
	}()
	err = cmd.Wait()
	// What the process left behind may hold the terminal.
	_ = own.SetReadDeadline(time.Now().Add(waitDelay))
	<-shown
	return errors.Join(ctx.Err(), err)
}

// openTerminal returns the two ends of a new terminal: one's own, and that of a
// process, to whose account it belongs.
func openTerminal(cmd *exec.Cmd) (own, process *os.File, err error) {
	own, process, err = pty.Open()
	if err != nil {
		return nil, nil, err
	}
	if as := cmd.SysProcAttr.Credential; as != nil {
		err = process.Chown(int(as.Uid), -1)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("making a terminal: %w", err), own.Close(), process.Close())
	}
	return own, process, nil
}

// followSize gives one terminal the size of another until it is called off.
func followSize(person, own *os.File) (stop func()) {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	copySize(person, own)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-resized:
				copySize(person, own)
			}
		}
	}()
	return func() {
		signal.Stop(resized)
		close(done)
	}
}

func copySize(person, own *os.File) {
	size, err := unix.IoctlGetWinsize(int(person.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return // a terminal without one
	}
	if c, err := own.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	}
}
