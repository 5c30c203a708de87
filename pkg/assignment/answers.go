package assignment

import (
	"slices"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// entry returns the entry of a manifest.
func (t *Table) entry(dep *deployment, x target) wire.Entry {
	if x.is(hold) {
		return wire.Entry{DeploymentRef: dep.DeploymentRef, Hold: true}
	}
	return *t.entries.value(x.issued)
}

// Manifest returns the entries of a device's manifest, ordered, and their
// sequence number. It returns false for a device that the table does not have,
// and for one that is on its way out: it must not take the end of its
// membership for an order to stop everything.
func (t *Table) Manifest(name string) (entries []wire.Entry, seq uint64, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	dev := t.member(name)
	if dev == nil {
		return nil, 0, false
	}
	entries = make([]wire.Entry, 0, len(dev.targets))
	for dep, x := range t.wanted(dev) {
		entries = append(entries, t.entry(dep, x))
	}
	slices.SortFunc(entries, func(a, b wire.Entry) int { return a.Compare(b.DeploymentRef) })
	return entries, dev.seq, true
}

// member returns a device that the table has and that is not revoked.
func (t *Table) member(name string) *device {
	if dev := t.devices[name]; dev != nil && dev.known && !dev.revoked {
		return dev
	}
	return nil
}

// wanted ranges over the targets that the manifest of a device lists: none of a
// device that is nil.
func (t *Table) wanted(dev *device) func(yield func(*deployment, target) bool) {
	return func(yield func(*deployment, target) bool) {
		if dev == nil {
			return
		}
		for _, x := range dev.targets {
			if x.is(wanted) && !yield(t.numberedDeployments.at(x.number()), x) {
				return
			}
		}
	}
}

// BodiesOf returns the hashes of the bodies that devices have of a Deployment that they
// should run: what they report, and what they were told. Of what was rendered it is that of
// the template, too.
func (t *Table) BodiesOf(ref wire.DeploymentRef) map[string]bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	held := map[string]bool{}
	dep := t.deployments[ref]
	if dep == nil {
		return held
	}
	dep.devices.each(func(number uint32) {
		x := t.numberedDevices.at(number).target(dep.number)
		issued := t.entries.value(x.issued)
		held[issued.Hash], held[issued.Revision] = true, true
		held[t.reports.value(x.report).hash] = true
	})
	delete(held, "")
	return held
}

// Wanted returns the Deployments that a device should run, and the sequence number of its
// manifest.
func (t *Table) Wanted(name string) (refs []wire.DeploymentRef, seq uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	dev := t.member(name)
	if dev == nil {
		return nil, 0
	}
	for dep, x := range t.wanted(dev) {
		if !x.is(reserved) {
			refs = append(refs, dep.DeploymentRef)
		}
	}
	return refs, dev.seq
}

// NeedsSecret reports whether a score in the manifest of the device names the Secret, in
// the namespace of ref. If that of ref itself does, with are all Secrets that it names.
func (t *Table) NeedsSecret(device string, ref wire.DeploymentRef, name string) (with []string, needs bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for dep, x := range t.wanted(t.member(device)) {
		if dep.Namespace != ref.Namespace || x.is(hold) || !slices.Contains(dep.secrets, name) {
			continue
		}
		if needs = true; dep.Name == ref.Name {
			return dep.secrets, true
		}
	}
	return nil, needs
}

// Lack is what the agent of a device lacks for a Deployment.
type Lack struct {
	wire.DeploymentRef
	Missing []wire.Capability
}

// Lacks returns what the agent of a device lacks, ordered. The device keeps what
// it runs of these Deployments.
func (t *Table) Lacks(name string) (lacks []Lack) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	dev := t.member(name)
	for dep, x := range t.wanted(dev) {
		if x.is(outdated) {
			lacks = append(lacks, Lack{dep.DeploymentRef, wire.Missing(dev.traits.can, dep.needs)})
		}
	}
	slices.SortFunc(lacks, func(a, b Lack) int { return a.Compare(b.DeploymentRef) })
	return lacks
}

// Issued returns the value that the bucket should hold under a key.
func (t *Table) Issued(k Key) (wire.Entry, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.issued(k)
}

func (t *Table) issued(k Key) (wire.Entry, bool) {
	dev, dep := t.devices[k.Device], t.deployments[k.DeploymentRef]
	if dev == nil || dep == nil {
		return wire.Entry{}, false
	}
	issued := dev.target(dep.number).issued
	return *t.entries.value(issued), issued != 0
}

// Diff compares the table with what the bucket holds and returns the keys
// that have to be written or removed.
func (t *Table) Diff(bucket map[Key]wire.Entry) (keys []Key) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for name, dev := range t.devices {
		for dep, x := range t.wanted(dev) {
			k := Key{name, dep.DeploymentRef}
			if x.issued != 0 && bucket[k] != *t.entries.value(x.issued) {
				keys = append(keys, k)
			}
		}
	}
	for k := range bucket {
		if _, wanted := t.issued(k); !wanted {
			keys = append(keys, k)
		}
	}
	return keys
}
