package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/output"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// Exit statuses of the command exec that are not those of what it runs.
const (
	exitNotRun      exitStatus = 125 // as podman's
	exitInterrupted exitStatus = 130 // as a shell's
)

func newExec(f flags) *cobra.Command {
	var e execution
	cmd := &cobra.Command{
		Use:   "exec SERVICE [-i] [-t] -- COMMAND [ARGUMENT...]",
		Short: "Run a command in the container of a service",
		Long: `Run a command in the container of a service, as podman exec does. That needs no
agent and no server, but podman.

` + aboutServices + `

The exit status is that of the command; 126 and 127 when it may not be run or is
not there, and 125 when there was another reason not to run it.

With -t the command has a terminal, and what it writes reaches yours as it is:
whatever runs in the container can then change what your terminal shows, and its
settings. Without -t, characters that could do that are shown as in \u001b on a
terminal; a file or a pipe gets the output as it is. A command without -t goes on
when you interrupt this one.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
				return errors.New("name one service, and the command after --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			err := e.run(cmd, f, args[0], args[1:])
			if cmd.Context().Err() != nil {
				return exitInterrupted
			}
			if _, ended := errors.AsType[exitStatus](err); ended {
				return err
			}
			if err = wellEnded(cmd.Context(), err); err != nil {
				return failure{err, exitNotRun}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&e.interactive, "interactive", "i", false, "pass on the standard input")
	cmd.Flags().BoolVarP(&e.terminal, "tty", "t", false, "give the command a terminal")
	return cmd
}

// execution is what the command exec was told.
type execution struct{ interactive, terminal bool }

// run runs a command, and returns an exitStatus unless that is 0.
func (e execution) run(cmd *cobra.Command, f flags, service string, command []string) error {
	what := container.Attachment{Command: command, Terminal: e.terminal, Out: printable.Exact(cmd.OutOrStdout()), Err: printable.Exact(cmd.ErrOrStderr())}
	if e.interactive {
		what.In = cmd.InOrStdin()
	}
	var person *os.File
	if e.terminal {
		in, out, err := terminalsOf(cmd.InOrStdin(), cmd.OutOrStdout())
		if err != nil {
			return err
		}
		person, what.Out = in, out // as it is: that is what -t asks for
	}
	_, runtime, err := f.workloads(cmd)
	if err != nil {
		return err
	}
	defer runtime.Close()
	ctx := cmd.Context()
	id, err := e.find(ctx, runtime, service)
	if err != nil {
		return err
	}
	var code int
	do := func() error { code, err = runtime.Attach(ctx, id, what); return err }
	if person != nil {
		err = onPersonsTerminal(person, e.interactive, &what, do)
	} else {
		err = do()
	}
	if err == nil && code != 0 {
		err = exitStatus(code)
	}
	return err
}

func (e execution) find(ctx context.Context, runtime container.Runtime, service string) (id string, err error) {
	source := output.Source{Runtime: runtime}
	name, err := source.Find(ctx, service)
	if err != nil {
		return "", err
	}
	c, err := source.Container(ctx, name)
	if err == nil && c.State != container.StateRunning {
		err = fmt.Errorf("service %s does not run (%.20s): fleet-agent logs %s shows what it wrote", name, c.State, name)
	}
	return c.ID, err
}

// terminalsOf returns the terminal that a person sits at, as it is read and written.
func terminalsOf(in io.Reader, out io.Writer) (from, to *os.File, err error) {
	if wrapped, ok := out.(interface{ Unwrap() io.Writer }); ok {
		out = wrapped.Unwrap()
	}
	from, isFile := in.(*os.File)
	to, isFileToo := out.(*os.File)
	if !isFile || !isFileToo || !term.IsTerminal(int(from.Fd())) || !term.IsTerminal(int(to.Fd())) {
		return nil, nil, errors.New("-t needs a terminal at the standard input and output: leave it out")
	}
	return from, to, nil
}

// onPersonsTerminal does something for which a terminal hands on each key as it is when
// keys is set. What is done learns of the terminal's size.
func onPersonsTerminal(person *os.File, keys bool, what *container.Attachment, do func() error) error {
	fd := int(person.Fd())
	what.Size = sizeOf(person)
	sizes, stop := sizesOf(person)
	defer stop()
	what.Sizes = sizes
	if !keys {
		return do()
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return fmt.Errorf("preparing the terminal: %w", err)
	}
	defer func() {
		// A terminal answers to some of what is written to it: not to root's shell.
		_ = unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH)
		_ = term.Restore(fd, before)
	}()
	return do()
}

func sizeOf(person *os.File) container.Size {
	size, err := unix.IoctlGetWinsize(int(person.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return container.Size{} // a terminal without one
	}
	return container.Size{Rows: size.Row, Columns: size.Col}
}

// sizesOf tells the sizes of a terminal from now on, the newest only, until it is stopped.
func sizesOf(person *os.File) (sizes <-chan container.Size, stop func()) {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	told, done := make(chan container.Size), make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-resized:
			}
			select {
			case <-done:
				return
			case told <- sizeOf(person):
			}
		}
	}()
	return told, func() {
		signal.Stop(resized)
		close(done)
	}
}
