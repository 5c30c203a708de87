package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// statusPause is the time between two looks at what becomes of a restart.
const statusPause = 500 * time.Millisecond

func newRestart(f flags) *cobra.Command {
	var all bool
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "restart SERVICE | --all",
		Short: "Stop a service and start it again",
		Long: `Stop a service and start it again. The running agent does so: it gives the
container its time to end, and counts this as no failure. A service that waits
for its next start after a failure starts at once.

` + aboutServices + `

The command waits until the service runs again and is ready, and says why not
otherwise.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return errors.New("name one service, or give --all: see fleet-agent status")
			}
			cfg, _, err := f.load(cmd, true)
			if err != nil {
				return err
			}
			if err := becomeAgent(cfg.StateDir); err != nil {
				return err
			}
			r := restarting{dir: cfg.StateDir, patience: patience, out: cmd.OutOrStdout()}
			return r.restart(cmd.Context(), strings.Join(args, ""))
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "restart every service of this device")
	cmd.Flags().DurationVar(&patience, "timeout", 5*time.Minute, "how long to wait until the services run again")
	return cmd
}

// restarting is a restart under way.
type restarting struct {
	dir      string
	patience time.Duration
	out      io.Writer
}

// restart restarts a service, or all of them when service is empty, and waits for them.
func (r restarting) restart(ctx context.Context, service string) error {
	s, err := control.ReadStatus(ctx, r.dir)
	if err != nil {
		return err
	}
	names := namesOf(s)
	if service != "" {
		name, err := services.Find(service, names)
		if err != nil {
			return err
		}
		names = []services.Name{name}
	}
	if len(names) == 0 {
		return errors.New("nothing runs on this device that could be restarted: fleet-agent status says why")
	}
	for _, n := range names {
		printable.Fprintf(r.out, "service %s ends and starts again\n", n)
	}
	began := time.Now()
	if err := control.Restart(ctx, r.dir, names); err != nil {
		return err
	}
	return r.await(ctx, names, began)
}

// namesOf lists the services that have a container.
func namesOf(s control.Status) (names []services.Name) {
	for _, d := range s.Deployments {
		for _, c := range d.Containers {
			names = append(names, services.Name{DeploymentRef: d.DeploymentRef, Service: c.Service})
		}
	}
	return names
}

// await waits until services run, and says so of each. It returns why one does not.
func (r restarting) await(ctx context.Context, names []services.Name, began time.Time) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.patience, fmt.Errorf("not all services are ready after %v: fleet-agent status says why", r.patience))
	defer cancel()
	for {
		s, err := control.ReadStatus(ctx, r.dir)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		var waiting []services.Name
		for _, n := range names {
			done, err := restarted(s, n)
			if err != nil {
				return err
			}
			if !done {
				waiting = append(waiting, n)
				continue
			}
			printable.Fprintf(r.out, "service %s runs again, after %v\n", n, time.Since(began).Round(100*time.Millisecond))
		}
		if names = waiting; len(names) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(statusPause):
		}
	}
}

// restarted reports whether a service is ready, or did its job. It returns why it is not
// and will not be so soon. Another service of the Deployment may fail for itself.
func restarted(s control.Status, n services.Name) (bool, error) {
	i := slices.IndexFunc(s.Deployments, func(d wire.DeploymentState) bool { return d.DeploymentRef == n.DeploymentRef })
	if i < 0 {
		return false, fmt.Errorf("the Deployment %s is not on this device any more", n.DeploymentRef)
	}
	d := s.Deployments[i]
	phase := phaseOf(d, n.Service)
	if phase != wire.PhaseFailed {
		return phase == wire.PhaseRunning, nil
	}
	why, its := strings.CutPrefix(d.Error, "service "+n.Service+": ")
	if !its {
		why = "its state is " + string(phase)
	}
	return false, fmt.Errorf("service %s does not run: %s", n, why)
}

// phaseOf is the phase of a service, which an earlier agent does not tell.
func phaseOf(d wire.DeploymentState, service string) wire.Phase {
	i := slices.IndexFunc(d.Containers, func(c wire.ContainerState) bool { return c.Service == service })
	switch {
	case i < 0:
		return wire.PhasePending
	case d.Containers[i].Phase != "":
		return d.Containers[i].Phase
	case d.Phase == wire.PhaseFailed && !strings.HasPrefix(d.Error, "service "+service+": ") && d.Containers[i].State == "running":
		return wire.PhaseRunning
	}
	return d.Phase
}
