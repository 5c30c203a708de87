package main

import (
	"os"

	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/helper"
)

// drivers are those of this device.
type drivers struct {
	workload.Drivers

	containers *driver.Driver
}

// newDrivers lists what this agent runs workloads with: to add a driver is to add a
// line. All but p are nil where nothing is run any more.
func newDrivers(p parts, registry driver.Registry, root func() string, keeper runs.Keeper, kept *crashes.Store) (d drivers, err error) {
	d.containers = driver.New(driver.Config{
		Runtime:       p.runtime,
		Registry:      registry,
		TrustRegistry: trustRegistry(os.Getenv("RUNTIME_DIRECTORY"), root),
		Dialer:        &helper.Client{Socket: helper.Socket},
		Binds:         binds(p.cfg, p.configPath),
		Crashes:       kept,
		Runs:          keeper,
		Uptime:        uptime(),
		Log:           p.log.With("component", "containers"),
	})
	d.Drivers, err = workload.NewDrivers(
		d.containers,
	)
	return d, err
}

// uptime is a clock that only grows from one start of the device to the next.
func uptime() func() runs.Moment {
	boot := facts.Boot("/")
	return func() runs.Moment { return runs.Moment{Boot: boot, Uptime: facts.Uptime()} }
}
