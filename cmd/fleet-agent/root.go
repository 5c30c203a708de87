package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/logging"
	"fleet.nationtech.io/fleet/pkg/manual"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/usage"
	"fleet.nationtech.io/fleet/pkg/version"
)

// run is the program: main only passes what the process has and exits.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(printable.NewWriter(stdout))
	root.SetErr(printable.NewWriter(stderr))
	return root.ExecuteContext(ctx)
}

// flags are those of every command.
type flags struct{ *pflag.FlagSet }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "fleet-agent",
		Short:         "Run the containers that a fleet-server asks this device for",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := flags{root.PersistentFlags()}
	defaults := config.Default()
	config.Program.AddFlags(f.FlagSet, &defaults)
	for name, values := range map[string][]string{"log-format": logging.Formats, "log-level": logging.Levels} {
		_ = root.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // fails for unknown flags only
	}
	root.AddCommand(newEnroll(f), newRun(f), newStatus(f), newLogs(f), newExec(f), newRestart(f), newLoad(f), newSupportBundle(f), newSetServer(f), newDoctor(f), newConfirmEpoch(f), newHardwareID(), newPodmanProxy(f), newFollowResolver(), newFingerprint(f), newVersion(), manual.NewCommand())
	root.AddCommand(newInstall(), newUninstall(), newAddRepository(f), newVerifyPackages(), newHelper(), newFiles(f))
	usage.Explain(root)
	return root
}

func newHardwareID() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "hardware-id",
		Short: "Print what a token names this machine by",
		Long: `Print what a token names this machine by: a hash of the number that the
firmware has, or else of the machine id. Run it as root, as enrollment does.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := facts.HardwareID("/")
			if err != nil {
				return err
			}
			if output != "" {
				return atomicfile.Write(output, []byte(id+"\n"), 0o644)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
			return err
		},
	}
	cmd.Flags().StringVar(&output, "output", "", "write it to `FILE` instead, as the service does at its start")
	return cmd
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "fleet-agent", version.String())
			return err
		},
	}
}

// path returns the configuration file, and whether somebody asked for it.
func (f flags) path() (path string, asked bool) {
	return config.Program.Path(environment(), f.FlagSet)
}

// load reads the configuration, validates it, and makes the logger that it asks
// for.
func (f flags) load(cmd *cobra.Command, required bool) (config.Config, *slog.Logger, error) {
	path, asked := f.path()
	cfg, err := config.Load(path, required && asked, environment(), f.FlagSet)
	if err != nil {
		return cfg, nil, err
	}
	if err := cfg.Validate(); err != nil {
		return cfg, nil, err
	}
	log, err := logging.New(cmd.ErrOrStderr(), cfg.Log.Format, cfg.Log.Level)
	return cfg, log, err
}
