// Command fleet-sim simulates devices against a fleet-server, over the real
// protocol: each enrolls, has a key and a connection of its own, and reports
// what it is told to run.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "fleet-sim: "+strings.ReplaceAll(err.Error(), "\n", " "))
		stop()
		os.Exit(1)
	}
}
