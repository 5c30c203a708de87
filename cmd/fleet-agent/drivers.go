package main

import (
	"os"

	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

// drivers are those of this device.
type drivers struct {
	workload.Drivers

	containers *driver.Driver
}

// newDrivers lists what this agent runs workloads with: to add a driver is to add a
// line. registry and root are nil where nothing is run any more.
func newDrivers(p parts, registry driver.Registry, root func() string) (d drivers, err error) {
	d.containers = driver.New(driver.Config{
		Runtime:       p.runtime,
		Registry:      registry,
		TrustRegistry: trustRegistry(os.Getenv("RUNTIME_DIRECTORY"), root),
		Binds:         binds(p.cfg, p.configPath),
		Log:           p.log.With("component", "containers"),
	})
	d.Drivers, err = workload.NewDrivers(
		d.containers,
	)
	return d, err
}
