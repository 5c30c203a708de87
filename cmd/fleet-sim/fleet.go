package main

import (
	"fmt"
	"log/slog"
	"math"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
)

// newFleet makes the devices that the options ask for.
func newFleet(o *options, tokens []string, latencies *sim.Latencies, log *slog.Logger) (*sim.Fleet, error) {
	fleet := &sim.Fleet{AtOnce: o.atOnce}
	for i := range o.devices {
		group := groupOf(i, o.groupSizes)
		c := sim.Config{
			Device:    fmt.Sprintf("%s-%d", o.namePrefix, i+1),
			Server:    o.server,
			Token:     tokens[group%len(tokens)],
			Fail:      has(i, o.failShare),
			Delay:     o.delay,
			Latencies: latencies,
			Logger:    log,
		}
		if has(i, o.flapShare) {
			c.Flap = o.flapEvery
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

// has spreads a share of the devices evenly over the fleet, so that each group has its
// share of them.
func has(device int, share float64) bool {
	return math.Floor(float64(device+1)*share) > math.Floor(float64(device)*share)
}
