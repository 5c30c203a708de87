package assignment

import "fleet.nationtech.io/fleet/pkg/wire"

// Held names what the table holds, with how many there are.
func (t *Table) Held() map[string]int {
	held := map[string]int{
		"devices": len(t.devices), "numbered devices": len(t.numberedDevices.records) - len(t.numberedDevices.free),
		"Deployments": len(t.deployments), "numbered Deployments": len(t.numberedDeployments.records) - len(t.numberedDeployments.free),
		"label keys": len(t.labels.keys), "Deployments everywhere": len(t.labels.everywhere), "traits": len(t.traits),
		"due": len(t.due), "entries": len(t.entries.numbers), "reports": len(t.reports.numbers),
	}
	for what, n := range held {
		if n == 0 {
			delete(held, what)
		}
	}
	return held
}

// Targets is how many Deployments a device has, and how many it has room for.
func (t *Table) Targets(device string) (have, room int) {
	d := t.devices[device]
	return len(d.targets), cap(d.targets)
}

// Numbers is how many numbers were given to devices.
func (t *Table) Numbers() int { return len(t.numberedDevices.records) }

// Slots is how many entries the table has room for.
func (t *Table) Slots() int { return len(t.entries.slots) }

// Failures is how many failures of a Deployment the table keeps.
func (t *Table) Failures(ref wire.DeploymentRef) int {
	if dep := t.deployments[ref]; dep != nil {
		return len(dep.reported)
	}
	return 0
}

// Set is a set of numbers.
type Set = set

func (s *set) Add(n uint32)      { s.add(n) }
func (s *set) Remove(n uint32)   { s.remove(n) }
func (s *set) Has(n uint32) bool { return s.has(n) }
func (s *set) Len() int          { return s.len() }
func (s *set) Members() []uint32 { return s.members() }

// Bitmaps is how many blocks of the set have a bit for each number.
func (s *set) Bitmaps() (n int) {
	if s.blocks == nil {
		return 0
	}
	for i := range *s.blocks {
		if (*s.blocks)[i].bits != nil {
			n++
		}
	}
	return n
}

// Waits reports whether a target waits for its rendering.
func (t *Table) Waits(k Key) bool {
	dev, dep := t.devices[k.Device], t.deployments[k.DeploymentRef]
	return dev != nil && dep != nil && dev.target(dep.number).is(unrendered)
}
