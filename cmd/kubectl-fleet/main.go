// Command kubectl-fleet is a plugin of kubectl, for Linux, macOS and Windows: `kubectl
// fleet` runs containers on devices, shows what became of them, and lets devices in.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/kubectl/pkg/cmd/util"

	_ "fleet.nationtech.io/fleet/pkg/english" // before kubectl is initialised
	"fleet.nationtech.io/fleet/pkg/plugin"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// interrupted is the exit status of a program that SIGINT ended, by the custom of shells.
const interrupted = 130

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends what does not end by itself
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil && ctx.Err() != nil {
		os.Exit(interrupted)
	}
	stop()
	util.CheckErr(err) // says it as kubectl does, with kubectl's exit status
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := plugin.NewProgram()
	root.SetArgs(args)
	root.SetOut(printable.NewWriter(stdout))
	root.SetErr(printable.NewWriter(stderr))
	plugin.SpeakThrough(root.ErrOrStderr(), func(msg string) string { return msg })
	return root.ExecuteContext(ctx)
}
