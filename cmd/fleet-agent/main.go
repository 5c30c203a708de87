// Command fleet-agent runs on each device of a fleet: it enrolls the device,
// keeps one outbound connection to fleet-server, and makes the device's
// podman containers what the server asks for.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
	"fleet.nationtech.io/fleet/pkg/printable"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends what does not end by itself
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if status, ok := errors.AsType[exitStatus](err); ok {
		os.Exit(int(status))
	}
	if err != nil {
		printError(os.Stderr, err)
		os.Exit(exitCode(err))
	}
}

// exitCode is the exit status for an error that is no exitStatus.
func exitCode(err error) int {
	if f, ok := errors.AsType[failure](err); ok {
		return int(f.status)
	}
	return hostinstall.ExitCode(err)
}

// failure is an error that ends the program with a certain status.
type failure struct {
	error

	status exitStatus
}

func (f failure) Unwrap() error { return f.error }

// printError prints one line, whoever chose the words in it.
func printError(w io.Writer, err error) { printable.Fprintf(w, "fleet-agent: %v\n", err) }
