package main

import (
	"os"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/listening"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/helper"
)

// drivers are those of this device.
type drivers struct {
	workload.Drivers

	containers *driver.Driver
}

// newDrivers lists what this agent runs workloads with: to add a driver is to add a
// line, and to add an interpreter to register it. All but p are nil where nothing is run any more.
func newDrivers(p parts, registry driver.Registry, root func() string, keep func(what string) runs.Keeper, kept *crashes.Store, m *pullMirror) (d drivers, err error) {
	client := &helper.Client{Socket: helper.Socket}
	containers := driver.Config{
		Runtime:       p.runtime,
		Registry:      registry,
		TrustRegistry: trustRegistry(os.Getenv("RUNTIME_DIRECTORY"), root),
		Dialer:        &helper.Dialer{Client: client},
		Storage:       client,
		Names:         client,
		Monitors:      client,
		Listens:       listens,
		Binds:         binds(p.cfg, p.configPath),
		Allow:         allowed(&p.cfg.Allow),
		Space:         imageSpace(p),
		Prune:         driver.Prune{After: p.cfg.Images.KeepUnneeded, Above: p.cfg.Images.PruneAbove, DownTo: p.cfg.Images.PruneDownTo},
		Crashes:       kept,
		Uptime:        uptime(),
		Log:           p.log.With("component", "containers"),
	}
	if m != nil {
		containers.Mirror = m
	}
	if keep != nil {
		containers.Runs, containers.Images, containers.Jobs, containers.Volumes = keep("containers"), keep("images"), keep("jobs"), keep("volumes")
	}
	d.containers = driver.New(containers)
	all := []workload.Driver{d.containers}
	all = append(all, interpreters(p.cfg.FileRoots, d.containers.About().Types, p.log)...)
	d.Drivers, err = workload.NewDrivers(all...)
	return d, err
}

// listens says who listens on a port.
func listens(port uint16, udp bool) string {
	s, found, err := listening.Find(port, udp)
	if err != nil || !found {
		return "" // podman's words are left
	}
	return s.String()
}

// allowed is what agent.yaml lets containers have besides what they may mount.
func allowed(a *config.Allow) driver.Allow {
	return driver.Allow{
		CDIDevices: a.CDIDevices, HostNamespaces: a.HostNamespaces, Capabilities: a.Capabilities, Sysctls: a.Sysctls,
		Unconfined: a.SeccompUnconfined, SELinuxOptions: a.SELinuxOptions,
	}
}

// imageSpace looks at the file system of the account whose podman keeps the images. The
// path is the system's word, not podman's, which could name one that hangs.
func imageSpace(p parts) func() (facts.FileSystem, error) {
	return func() (facts.FileSystem, error) {
		here := local(p.cfg)
		account, err := here.Lookup(here.Workload)
		if err != nil {
			return facts.FileSystem{}, err
		}
		return facts.Disk(account.HomeDir)
	}
}

// uptime is a clock that only grows from one start of the device to the next.
func uptime() func() runs.Moment {
	boot := facts.Boot("/")
	return func() runs.Moment { return runs.Moment{Boot: boot, Uptime: facts.Uptime()} }
}
