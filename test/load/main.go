// Command load is the load test: it starts fleet-server as shipped, lets
// simulated devices in by one token, which allows them to label themselves
// into groups, and creates a Deployment for each group. Every Deployment's
// aggregate must add up whenever it is looked at, and be exact at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/test/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	server   string
	devices  int
	groups   []int
	duration time.Duration
}

func parse(args []string) (options, error) {
	var o options
	var sizes string
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.StringVar(&o.server, "server", "bin/fleet-server", "the fleet-server binary")
	f.IntVar(&o.devices, "devices", 20, "how many devices")
	f.StringVar(&sizes, "group-sizes", "10,5,5", "how many devices are in each group; scaled up to -devices")
	f.DurationVar(&o.duration, "duration", 20*time.Second, "how long to look at the aggregates")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	total := 0
	for s := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return o, fmt.Errorf("-group-sizes %q: it must be numbers separated by commas", sizes)
		}
		o.groups = append(o.groups, n)
		total += n
	}
	if o.devices < total || o.devices%total != 0 {
		return o, fmt.Errorf("-devices %d must be a multiple of the sum of -group-sizes, %d", o.devices, total)
	}
	for i := range o.groups {
		o.groups[i] *= o.devices / total
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fleet-load-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := process.StartServer(ctx, process.Config{Binary: o.server, DataDir: dir})
	if err != nil {
		return err
	}
	err = o.load(ctx, server, out)
	return errors.Join(err, server.Stop())
}

func (o options) load(ctx context.Context, server *process.Server, out io.Writer) error {
	token, err := server.Token(ctx, "--pre-approve", "--uses", strconv.Itoa(o.devices), "--allow-label", "group")
	if err != nil {
		return err
	}
	fleet, err := o.fleet(server, token)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := fleet.Enroll(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d devices enrolled in %s\n", o.devices, time.Since(begin).Round(time.Millisecond))

	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- fleet.Run(running) }()
	defer func() {
		stop()
		<-done
	}()
	begin = time.Now()
	if err := poll(ctx, func() error { return o.labelled(ctx, server) }); err != nil {
		return fmt.Errorf("waiting for the devices' labels: %w", err)
	}
	fmt.Fprintf(out, "%d devices connected and labelled in %s\n", o.devices, time.Since(begin).Round(time.Millisecond))
	return o.deploy(ctx, server, out)
}

func (o options) fleet(server *process.Server, token string) (*sim.Fleet, error) {
	fleet := &sim.Fleet{}
	for group, size := range o.groups {
		for i := range size {
			d, err := sim.New(sim.Config{
				Device: fmt.Sprintf("sim-%d-%d", group, i), Server: server.EnrollURL, Token: token,
				Labels: map[string]string{"group": groupName(group)}, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				return nil, err
			}
			fleet.Devices = append(fleet.Devices, d)
		}
	}
	return fleet, nil
}

func groupName(i int) string { return fmt.Sprintf("group-%d", i) }
