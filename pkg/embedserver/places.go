package embedserver

import (
	"syscall"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/connlimit"
)

const (
	// ownDescriptors are for files, and for what the server says to itself.
	ownDescriptors = 1024
	// maxDevices bounds the places for connections of devices, whatever the
	// process may open.
	maxDevices = 1 << 16
	// roomyDescriptors are enough for 10,000 devices, of which each may have two
	// connections for a moment.
	roomyDescriptors = 32 << 10
)

// places are those of each listener.
type places struct{ api, bus, enrollment connlimit.Limits }

// placesWithin shares out the descriptors that the process may have. Each
// listener has its own share, and in it strangers have theirs, so that nobody
// takes those of others. What is left is for devices.
func placesWithin(descriptors int) places {
	rest := descriptors - min(ownDescriptors, descriptors/4)
	share := func(part, most int) int { return max(8, min(most, rest/part)) }
	p := places{
		api:        strangers(share(32, 1024), 4),
		enrollment: strangers(share(8, 2048), 8),
		bus:        strangers(share(8, 4096), 4),
	}
	p.api.Known, p.enrollment.Known = share(16, 512), share(16, 1024)
	p.api.StrangerBytes, p.bus.StrangerBytes = broker.StrangerBytes, broker.StrangerBytes
	taken := p.api.All() + p.enrollment.All() + p.bus.All()
	p.bus.Known = max(8, min(maxDevices, rest-taken))
	return p
}

// strangers are places for all strangers, of which one host may have a part.
func strangers(all, part int) connlimit.Limits {
	return connlimit.Limits{Strangers: all, OfHost: max(4, all/part), OfSite: max(4, all/2), Local: max(4, all/part)}
}

// maxDescriptors is how many files the process may have open. Go has raised it
// to what is allowed.
func maxDescriptors() int {
	const unlimited = 1 << 20
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return ownDescriptors
	}
	return int(min(limit.Cur, unlimited))
}

// sharePlaces says when the limit of the process is what bounds the fleet.
func (s *server) sharePlaces() {
	descriptors := maxDescriptors()
	s.places = placesWithin(descriptors)
	if descriptors < roomyDescriptors {
		s.Logger.Warn("few files may be open, which bounds the number of devices: raise LimitNOFILE of the unit, or ulimit -n", "files", descriptors, "device_connections", s.places.bus.Known)
	}
}
