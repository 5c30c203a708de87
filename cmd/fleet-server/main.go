// Command fleet-server is the control plane of a fleet on one machine.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	_ "fleet.nationtech.io/fleet/cmd/fleet-server/roomy" // before anything large is initialised
	"fleet.nationtech.io/fleet/pkg/hostinstall"
	"fleet.nationtech.io/fleet/pkg/logging"
	"fleet.nationtech.io/fleet/pkg/manual"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/settings"
	"fleet.nationtech.io/fleet/pkg/usage"
	"fleet.nationtech.io/fleet/pkg/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends what does not end by itself
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if code, ok := errors.AsType[exitStatus](err); ok {
		os.Exit(int(code))
	}
	if err != nil {
		printError(os.Stderr, err)
		os.Exit(hostinstall.ExitCode(err))
	}
}

// printError prints one line, whoever chose the words in it.
func printError(w io.Writer, err error) { printable.Fprintf(w, "fleet-server: %s\n", oneLine(err)) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := newRoot(os.Environ())
	root.SetArgs(args)
	root.SetOut(printable.NewWriter(stdout))
	root.SetErr(printable.NewWriter(stderr))
	return root.ExecuteContext(ctx)
}

func newRoot(env settings.Env) *cobra.Command {
	o := &options{config: defaultConfig(), env: env}
	root := &cobra.Command{
		Use:   "fleet-server",
		Short: "Run containers on a fleet of small machines",
		Long: "fleet-server is the control plane of a fleet: a Kubernetes-compatible API, a message bus\n" +
			"and the controllers, in one process. Devices run fleet-agent and enroll with a token.",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return o.load(cmd.Flags())
		},
	}
	o.addFlags(root.PersistentFlags())
	for name, values := range map[string][]string{"log-format": logging.Formats, "log-level": logging.Levels} {
		_ = root.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // fails for unknown flags only
	}
	root.AddCommand(newRun(o), newOperator(o), newToken(o), newDevice(o), newCA(o), newAdminCert(o), newClock(o), newBundle(o), newImage(o), newGenCRD(), newRepodata(), newKubectl(o), newKubeconfig(o), newExplain(), newConvert(), newNATSValues(), newNATSAccounts(), newVersion(), manual.NewCommand())
	root.AddCommand(newInstall(o), newUpgrade(o), newUninstall())
	usage.Explain(root)
	return root
}

// oneLine makes joined errors readable where one line is expected.
func oneLine(err error) string {
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	var lines []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
