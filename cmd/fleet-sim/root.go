package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/logging"
	"fleet.nationtech.io/fleet/pkg/usage"
	"fleet.nationtech.io/fleet/pkg/version"
)

// maxToken bounds what is read as a token, in bytes.
const maxToken = 4096

// options are what the command was told.
type options struct {
	server     string
	devices    int
	tokenFiles []string
	groupSizes []int
	groupLabel string
	namePrefix string
	failShare  float64
	flapShare  float64
	flapEvery  time.Duration
	stormEvery time.Duration
	atOnce     int
	picture    string
	delay      time.Duration
	duration   time.Duration
	logLevel   string
	logFormat  string
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cmd := newRoot()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return cmd.ExecuteContext(ctx)
}

func newRoot() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "fleet-sim --server https://HOST:8443 --devices N --token-file F",
		Short: "Simulate devices of a fleet",
		Long: `Simulate devices of a fleet.

With --group-sizes 10,5,5 the first ten devices ask for the label group=g1, the
next five for group=g2 and the last five for group=g3; a token has to allow the
key. With several --token-file the groups use them in turn.

A summary of each second comes first; at the end, a table says how long it took to
enroll, to be answered after a connection was made or lost, and to apply what is new.
So a test of what a gateway can carry is, for example:

  ulimit -n 20000
  fleet-sim --server https://GATEWAY:8443 --token-file token --devices 10000 \
    --flap-share 0.01 --storm-every 5m --duration 20m --picture fleet.svg

Each device has a connection of its own, so one process has as many devices as it may
have open files, but for a hundred or so. A server says how many devices it has room
for, if that is less, when it starts.`,
		Version:       version.String(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.define(cmd)
	usage.Explain(cmd)
	return cmd
}

func (o *options) define(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.server, "server", "", "enrollment address of the server: https://HOST:8443")
	f.IntVar(&o.devices, "devices", 1, "number of devices")
	f.StringArrayVar(&o.tokenFiles, "token-file", nil, "file that holds an enrollment token; may be repeated, one for each group")
	f.IntSliceVar(&o.groupSizes, "group-sizes", nil, "sizes of the groups; devices beyond them are in none")
	f.StringVar(&o.groupLabel, "group-label", "group", "label that names a device's group")
	f.StringVar(&o.namePrefix, "name-prefix", "", "beginning of the device ids (default: one that no other run has)")
	f.Float64Var(&o.failShare, "fail-share", 0, "share of the devices that report failures, 0 to 1; always the same ones")
	f.Float64Var(&o.flapShare, "flap-share", 0, "share of the devices that lose their connections again and again, 0 to 1; always the same ones")
	f.DurationVar(&o.flapEvery, "flap-every", 30*time.Second, "how long such a device keeps a connection, on average")
	f.DurationVar(&o.stormEvery, "storm-every", 0, "make all devices lose their connections at once, so often; 0 is never")
	f.IntVar(&o.atOnce, "enroll-at-once", 16, "how many devices enroll at once")
	f.StringVar(&o.picture, "picture", "", "SVG file to draw the run into: devices that enrolled and that are synced, over time")
	f.DurationVar(&o.delay, "report-delay", 100*time.Millisecond, "time that a Deployment takes to start")
	f.DurationVar(&o.duration, "duration", 0, "end after this time; 0 is never")
	f.StringVar(&o.logLevel, "log-level", "warn", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", logging.FormatText, "text or json")
	for name, values := range map[string][]string{"log-format": logging.Formats, "log-level": logging.Levels} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // fails for unknown flags only
	}
	for _, name := range []string{"server", "token-file"} {
		_ = cmd.MarkFlagRequired(name) // fails for unknown flags only
	}
}

func (o *options) validate() error {
	switch {
	case o.devices < 1:
		return errors.New("--devices must be at least 1")
	case o.failShare < 0 || o.failShare > 1:
		return errors.New("--fail-share must be within 0 and 1")
	case o.flapShare < 0 || o.flapShare > 1:
		return errors.New("--flap-share must be within 0 and 1")
	case o.flapEvery <= 0:
		return errors.New("--flap-every must be more than 0")
	case o.stormEvery < 0:
		return errors.New("--storm-every must not be negative")
	case o.atOnce < 1:
		return errors.New("--enroll-at-once must be at least 1")
	}
	sum := 0
	for _, size := range o.groupSizes {
		if size < 0 {
			return errors.New("--group-sizes must not be negative")
		}
		sum += size
	}
	if sum > o.devices {
		return fmt.Errorf("--group-sizes add up to %d, but there are %d devices", sum, o.devices)
	}
	return nil
}

// run simulates the fleet until ctx or the duration ends.
func (o *options) run(ctx context.Context, stdout, stderr io.Writer) error {
	log, err := logging.New(stderr, o.logFormat, o.logLevel)
	if err != nil {
		return err
	}
	log = slog.New(newSeldom(log.Handler()))
	if err := haveRoom(o, openFiles()); err != nil {
		return err
	}
	tokens, err := readTokens(o.tokenFiles)
	if err != nil {
		return err
	}
	if o.namePrefix == "" {
		o.namePrefix = "sim-" + randomName()
	}
	if o.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
	}
	latencies := &sim.Latencies{}
	fleet, err := newFleet(o, tokens, latencies, log)
	if err != nil {
		return err
	}
	r := &rehearsal{fleet: fleet, latencies: latencies, stormEvery: o.stormEvery}
	err = r.run(ctx, stdout)
	r.table(stdout)
	if o.picture != "" {
		err = errors.Join(err, atomicfile.Write(o.picture, r.picture(), 0o644)) //nolint:gosec // a picture, for everybody
	}
	return err
}

func readTokens(files []string) ([]string, error) {
	var tokens []string
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading a token: %w", err)
		}
		data, err := io.ReadAll(io.LimitReader(f, maxToken))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading a token: %w", err)
		}
		tokens = append(tokens, strings.TrimSpace(string(data)))
	}
	return tokens, nil
}

func randomName() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
