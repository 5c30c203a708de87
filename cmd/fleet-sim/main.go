// Command fleet-sim simulates devices against a fleet-server, over the real
// protocol: each enrolls, has a key and a connection of its own, and reports
// what it is told to run.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/logging"
	"fleet.nationtech.io/fleet/pkg/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet-sim:", err)
		os.Exit(1)
	}
}

type options struct {
	server    string
	tokenFile string
	prefix    string
	devices   int
	failShare float64
	delay     time.Duration
	duration  time.Duration
	labels    map[string]string
	logFormat string
	logLevel  string
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	cmd := &cobra.Command{
		Use:     "fleet-sim",
		Short:   "Simulate devices against a fleet-server",
		Version: version.String(),
		Example: "  fleet-server token create --pre-approve --uses 100 --allow-label group > token\n" +
			"  fleet-sim --server https://localhost:8443 --token-file token --devices 100 --label group=a --fail-share 0.1",
		Args:         cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), stdout, stderr) },
	}
	f := cmd.Flags()
	f.StringVar(&o.server, "server", "", "enrollment URL: https://HOST:8443")
	f.StringVar(&o.tokenFile, "token-file", "", "file with an enrollment token of enough uses")
	f.StringVar(&o.prefix, "prefix", "sim", "device names are PREFIX-1, PREFIX-2, …")
	f.IntVar(&o.devices, "devices", 10, "how many devices to simulate")
	f.Float64Var(&o.failShare, "fail-share", 0, "share of the devices, 0 to 1, that report failures")
	f.DurationVar(&o.delay, "delay", 0, "time that a device takes to start a score")
	f.DurationVar(&o.duration, "duration", 0, "how long to run; until interrupted when 0")
	f.StringToStringVar(&o.labels, "label", nil, "label KEY=VALUE that each device asks for; may be repeated")
	f.StringVar(&o.logFormat, "log-format", logging.FormatText, "text or json")
	f.StringVar(&o.logLevel, "log-level", "warn", "debug, info, warn or error")
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return cmd.ExecuteContext(ctx)
}

func (o *options) run(ctx context.Context, stdout, stderr io.Writer) error {
	log, err := logging.New(stderr, o.logFormat, o.logLevel)
	if err != nil {
		return err
	}
	fleet, err := o.fleet(log)
	if err != nil {
		return err
	}
	if o.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
	}
	progress, stop := context.WithCancel(ctx)
	defer stop()
	go report(progress, stdout, fleet)
	if err := fleet.Enroll(ctx); err != nil {
		return err
	}
	return fleet.Run(ctx)
}

func (o *options) fleet(log *slog.Logger) (*sim.Fleet, error) {
	if o.server == "" || o.tokenFile == "" {
		return nil, errors.New("--server and --token-file are needed")
	}
	if o.devices < 1 || o.failShare < 0 || o.failShare > 1 {
		return nil, errors.New("--devices must be at least 1, and --fail-share within 0 to 1")
	}
	token, err := os.ReadFile(o.tokenFile)
	if err != nil {
		return nil, fmt.Errorf("reading the token: %w", err)
	}
	fleet := &sim.Fleet{}
	for i := range o.devices {
		d, err := sim.New(sim.Config{
			Device: fmt.Sprintf("%s-%d", o.prefix, i+1), Server: o.server, Token: strings.TrimSpace(string(token)),
			Labels: o.labels, Fail: float64(i) < o.failShare*float64(o.devices), Delay: o.delay, Logger: log,
		})
		if err != nil {
			return nil, err
		}
		fleet.Devices = append(fleet.Devices, d)
	}
	return fleet, nil
}

// report prints a line a second.
func report(ctx context.Context, w io.Writer, f *sim.Fleet) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			fmt.Fprintf(w, "enrolled %d, with a manifest %d, of %d devices; %d reports sent\n", f.Enrolled(), f.Connected(), len(f.Devices), f.Reports())
		}
	}
}
