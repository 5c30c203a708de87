//go:build linux

// Command lab boots, enters and removes the machines of package lab by hand:
//
//	go run ./test/lab/cmd/lab up box
//	go run ./test/lab/cmd/lab run box -- systemctl status
//	go run ./test/lab/cmd/lab clean
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/test/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status: that of the command for "lab run", else 0 or 1.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Boot real Debian machines with systemd and rootless podman",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(upCommand(), runCommand(), stopCommand(), installCommand(), cleanCommand())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var exit *lab.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode
	}
	if err != nil {
		fmt.Fprintln(stderr, "lab:", err)
		return 1
	}
	return 0
}

func open(cmd *cobra.Command) (*lab.Lab, error) {
	return lab.Open(cmd.Context(), lab.Options{Progress: cmd.ErrOrStderr()})
}

// withMachine calls do with a machine and lets go of it afterwards.
func withMachine(cmd *cobra.Command, name string, do func(context.Context, *lab.Machine) error) error {
	l, err := open(cmd)
	if err != nil {
		return err
	}
	m, err := l.Attach(cmd.Context(), name)
	if err != nil {
		return err
	}
	return errors.Join(do(cmd.Context(), m), m.Release())
}

func upCommand() *cobra.Command {
	config := lab.Config{Detached: true}
	cmd := &cobra.Command{
		Use:   "up NAME",
		Short: "Boot a machine in the host's network; start it when it was stopped",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config.Name = args[0]
			l, err := open(cmd)
			if err != nil {
				return err
			}
			m, err := l.Ensure(cmd.Context(), config)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is up\n", m.Name)
			return m.Release()
		},
	}
	cmd.Flags().StringVar(&config.Suite, "suite", lab.Trixie, "Debian suite: trixie or bookworm")
	return cmd
}

func runCommand() *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "run NAME -- COMMAND [ARG]…",
		Short: "Run a command in a machine, without a shell",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withMachine(cmd, args[0], func(ctx context.Context, m *lab.Machine) error {
				r, err := m.RunAs(ctx, user, args[1:]...)
				if err != nil {
					return err
				}
				fmt.Fprint(cmd.OutOrStdout(), r.Stdout)
				fmt.Fprint(cmd.ErrOrStderr(), r.Stderr)
				if r.ExitCode != 0 {
					return &lab.ExitError{Command: args[1], Result: r}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&user, "user", "root", "user to run as")
	return cmd
}

func stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop NAME",
		Short: "Power a machine off",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withMachine(cmd, args[0], func(ctx context.Context, m *lab.Machine) error { return m.Stop(ctx) })
		},
	}
}

func installCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install NAME [BINARY]",
		Short: "Install the agent's package content and the hello image in a machine",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var binary string
			if len(args) == 2 {
				binary = args[1]
			}
			return withMachine(cmd, args[0], func(ctx context.Context, m *lab.Machine) error {
				if err := m.InstallAgent(ctx, binary); err != nil {
					return err
				}
				return m.LoadImage(ctx, lab.HelloImage)
			})
		},
	}
}

func cleanCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "clean",
		Short: "Remove all machines that no other process works with; roots are kept",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open(cmd)
			if err != nil {
				return err
			}
			return l.Clean(cmd.Context())
		},
	}
}
