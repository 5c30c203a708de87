package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/output"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// aboutServices is what the help of commands says that are about a service.
const aboutServices = `SERVICE is the name of a service, as in fleet-agent status. Where several
Deployments have one of that name, write DEPLOYMENT/SERVICE or
NAMESPACE/DEPLOYMENT/SERVICE.`

// workloads loads the configuration, gives up root's rights for the agent's, and
// returns the runtime of the device's workloads. What answers there is trusted less than
// either.
func (f flags) workloads(cmd *cobra.Command) (config.Config, *podman.Client, error) {
	cfg, _, err := f.load(cmd, true)
	if err != nil {
		return cfg, nil, err
	}
	socket := findSocket(cfg)()
	if err := becomeAgent(cfg.StateDir); err != nil {
		return cfg, nil, err
	}
	return cfg, podman.New(func() string { return socket }, ""), nil
}

// logsOptions are what the command logs was told.
type logsOptions struct {
	follow bool
	tail   int
	since  time.Duration
	// previous is which crash is shown; zero for none.
	previous int
}

func newLogs(f flags) *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs SERVICE",
		Short: "Show what a service writes",
		Long: `Show what a service writes, to its standard output and its standard error. That
needs no agent and no server, but podman.

` + aboutServices + `

Each stream goes to the stream of the same name. On a terminal, characters that
could steer it are shown as in \u001b; a file or a pipe gets the output as it is.
Podman keeps the last 10 MB of a container, and nothing of one that was replaced.

With --previous it shows what the agent kept when the service last crashed: the
facts, then the end of the output of both streams. --previous=2 shows the crash
before. That needs podman no more than the agent.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			cfg, runtime, err := f.workloads(cmd)
			if err != nil {
				return err
			}
			defer runtime.Close()
			if o.previous > 0 {
				return wellEnded(cmd.Context(), showPrevious(cfg, args[0], o.previous, o.tail, cmd.OutOrStdout()))
			}
			return wellEnded(cmd.Context(), o.show(cmd.Context(), runtime, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with what comes, also of the next container, until interrupted")
	cmd.Flags().IntVar(&o.tail, "tail", -1, "show the last `LINES` only; -1 for all")
	cmd.Flags().DurationVar(&o.since, "since", 0, "show what was written in the last `TIME` only, for example 10m")
	cmd.Flags().IntVarP(&o.previous, "previous", "p", 0, "show the last crash, or the `NUMBER`th last")
	cmd.Flags().Lookup("previous").NoOptDefVal = "1"
	return cmd
}

func (o logsOptions) validate() error {
	if o.previous < 0 {
		return fmt.Errorf("--previous=%d: the last crash is 1", o.previous)
	}
	if o.previous > 0 && (o.follow || o.since != 0) {
		return errors.New("--previous shows what was: it goes with --tail, and not with --follow or --since")
	}
	if o.since < 0 {
		return fmt.Errorf("--since=%v: it is a time before now, such as 10m", o.since)
	}
	return nil
}

func (o logsOptions) show(ctx context.Context, runtime container.Runtime, service string, stdout, stderr io.Writer) error {
	source := output.Source{Runtime: runtime, Notice: func(line string) { printable.Fprintf(stderr, "fleet-agent: %s\n", line) }}
	name, err := source.Find(ctx, service)
	if err != nil {
		return err
	}
	options := container.LogOptions{Tail: o.tail}
	if o.since > 0 {
		options.Since = time.Now().Add(-o.since)
	}
	read := source.Read
	if o.follow {
		read = source.Follow
	}
	return read(ctx, name, options, pour(stdout, stderr))
}

// pour returns a sink that writes each stream of a container where it belongs.
func pour(stdout, stderr io.Writer) func(container.Piece) error {
	stdout, stderr = printable.Exact(stdout), printable.Exact(stderr)
	return func(p container.Piece) error {
		to := stdout
		if p.Stderr {
			to = stderr
		}
		_, err := to.Write(p.Text)
		return err
	}
}

// wellEnded is the error of an output that somebody reads until they have enough: to
// interrupt it, or to close the pipe that it goes to, is no error.
func wellEnded(ctx context.Context, err error) error {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	if errors.Is(err, container.ErrUnavailable) {
		return fmt.Errorf("%w; fleet-agent doctor says more", err)
	}
	return err
}
