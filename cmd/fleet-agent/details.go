package main

import (
	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/agent/store"
)

// details are what people on the device may want to know of it.
func details(state *store.Store, connection *link.Link, containers *driver.Driver) control.Details {
	d := control.Details{LastContact: connection.LastContact().UTC(), Disks: disks(state.Dir(), containers)}
	activity := containers.Activity()
	for _, w := range activity.Wanted {
		d.Services = append(d.Services, control.Service{Name: w.Name, WantedImage: w.Image})
	}
	for _, p := range activity.Pulls {
		d.Pulls = append(d.Pulls, control.Pull(p))
	}
	return d
}

// disks are the file systems of the agent's state and of its containers, as far as they
// can be looked at.
func disks(dir string, containers *driver.Driver) (all []control.Disk) {
	if disk, err := facts.Disk(dir); err == nil {
		all = append(all, control.Disk{Name: dir, Size: disk.Size, Used: disk.Used})
	}
	if info, err := containers.Info(); err == nil && info.StoreSize > 0 {
		all = append(all, control.Disk{Name: "the image store", Size: info.StoreSize, Used: info.StoreUsed})
	}
	return all
}

// situation is how the device is just now, for whoever looks into a crash.
func situation(state *store.Store, connection *link.Link, containers *driver.Driver) crashes.Device {
	_, err := connection.Server()
	d := crashes.Device{Connected: err == nil}
	if m, _ := state.Manifest(); m != nil {
		d.Manifest = m.Version
	}
	d.MemorySize, d.MemoryAvailable = facts.Memory("/")
	for _, disk := range disks(state.Dir(), containers) {
		d.Disks = append(d.Disks, crashes.Disk(disk))
	}
	return d
}
