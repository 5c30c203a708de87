package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
)

// summaryInterval is the time between two summary lines.
const summaryInterval = time.Second

// newFleet makes the devices that the options ask for.
func newFleet(o *options, tokens []string, log *slog.Logger) (*sim.Fleet, error) {
	fleet := &sim.Fleet{}
	for i := range o.devices {
		group := groupOf(i, o.groupSizes)
		c := sim.Config{
			Device: fmt.Sprintf("%s-%d", o.namePrefix, i+1),
			Server: o.server,
			Token:  tokens[group%len(tokens)],
			Fail:   fails(i, o.failShare),
			Delay:  o.delay,
			Logger: log,
		}
		if group < len(o.groupSizes) {
			c.Labels = map[string]string{o.groupLabel: fmt.Sprintf("g%d", group+1)}
		}
		d, err := sim.New(c)
		if err != nil {
			return nil, err
		}
		fleet.Devices = append(fleet.Devices, d)
	}
	return fleet, nil
}

// groupOf returns the index of a device's group: len(sizes) for none.
func groupOf(device int, sizes []int) int {
	for i, size := range sizes {
		if device < size {
			return i
		}
		device -= size
	}
	return len(sizes)
}

// fails spreads the devices that fail evenly over the fleet, so that each group
// has its share of them.
func fails(device int, share float64) bool {
	return math.Floor(float64(device+1)*share) > math.Floor(float64(device)*share)
}

// simulate runs the fleet and prints a summary each second until ctx ends. A
// device that cannot enroll ends the run: its error is the result.
func simulate(ctx context.Context, fleet *sim.Fleet, out io.Writer) error {
	ended := make(chan error, 1)
	go func() {
		err := fleet.Enroll(ctx)
		if err == nil {
			err = fleet.Run(ctx)
		}
		ended <- err
	}()
	ticker := time.NewTicker(summaryInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			fmt.Fprintln(out, summary(fleet))
		case err := <-ended:
			fmt.Fprintln(out, summary(fleet))
			if ctx.Err() != nil {
				return nil // what ends with the run is no failure
			}
			return err
		}
	}
}

func summary(f *sim.Fleet) string {
	return fmt.Sprintf("devices=%d enrolled=%d manifests=%d reports=%d", len(f.Devices), f.Enrolled(), f.Connected(), f.Reports())
}
