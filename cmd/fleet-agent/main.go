// Command fleet-agent runs on each device of a fleet: it enrolls the device,
// keeps one outbound connection to fleet-server, and makes the device's
// podman containers what the server asks for.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if status, ok := errors.AsType[exitStatus](err); ok {
		os.Exit(int(status))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet-agent: "+strings.ReplaceAll(err.Error(), "\n", " "))
		os.Exit(hostinstall.ExitCode(err))
	}
}
