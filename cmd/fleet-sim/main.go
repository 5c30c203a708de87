// Command fleet-sim simulates devices for load tests. Each of them enrolls
// with a key of its own, keeps a connection over mutual TLS, fetches its
// manifests and bodies, and reports, all over the protocol and with the code
// of fleet-agent; only podman and the disk are left out.
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
