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
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/test/load/fleetload"
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
	server string
	load   fleetload.Config
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	var sizes string
	var devices int
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.StringVar(&o.server, "server", "bin/fleet-server", "the fleet-server binary")
	f.IntVar(&devices, "devices", 20, "how many devices")
	f.StringVar(&sizes, "group-sizes", "10,5,5", "how many devices are in each group; scaled up to -devices")
	f.DurationVar(&o.load.Watch, "duration", 20*time.Second, "how long to look at the aggregates")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for s := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return o, fmt.Errorf("-group-sizes %q: it must be numbers separated by commas", sizes)
		}
		o.load.Groups = append(o.load.Groups, n)
	}
	total := o.load.Devices()
	if devices < total || devices%total != 0 {
		return o, fmt.Errorf("-devices %d must be a multiple of the sum of -group-sizes, %d", devices, total)
	}
	for i := range o.load.Groups {
		o.load.Groups[i] *= devices / total
	}
	o.load.Progress = func(line string) { fmt.Fprintln(out, line) }
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, out)
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
	_, err = o.load.Run(ctx, server)
	return errors.Join(err, server.Stop())
}
