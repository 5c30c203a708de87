package roster

import (
	"maps"
	"slices"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// reports are the digests of what a device reported and the buckets hold, so that
// one comparison tells whether a device and the server agree.
type reports struct {
	info   wire.Digest
	states map[wire.DeploymentRef]wire.Digest
	// stateHash is that of states; empty when it has to be computed.
	stateHash string
}

// InfoReported notes that the bucket has a report of a device about itself.
func (r *Roster) InfoReported(name string, d wire.Digest) {
	r.change(name, func(rec *device, _ *effects) { rec.info = d })
}

// StateReported notes that the bucket has a report of a device about a Deployment.
func (r *Roster) StateReported(name string, ref wire.DeploymentRef, d wire.Digest) {
	r.change(name, func(rec *device, _ *effects) {
		if rec.states == nil {
			rec.states = map[wire.DeploymentRef]wire.Digest{}
		}
		rec.states[ref], rec.stateHash = d, ""
	})
}

// StateRemoved notes that the bucket has no such report any more.
func (r *Roster) StateRemoved(name string, ref wire.DeploymentRef) {
	r.update(name, func(rec *device, _ *effects) {
		delete(rec.states, ref)
		rec.stateHash = ""
	})
}

// ReportsRemoved notes that the buckets have nothing of a device any more.
func (r *Roster) ReportsRemoved(name string) {
	r.update(name, func(rec *device, _ *effects) { rec.reports = reports{} })
}

// ReportHashes returns what a device's InfoHash and StateHash should be. The first
// is empty when it has not reported on itself.
func (r *Roster) ReportHashes(name string) (info, state string) {
	known := r.look(name, func(rec *device) {
		if rec.info != (wire.Digest{}) {
			info = rec.info.String()
		}
		if rec.stateHash == "" {
			rec.stateHash = wire.StateHash(rec.states)
		}
		state = rec.stateHash
	})
	if !known {
		state = wire.StateHash(nil)
	}
	return info, state
}

// Reported lists the Deployments that the bucket has reports of a device about.
func (r *Roster) Reported(name string) (refs []wire.DeploymentRef) {
	r.look(name, func(rec *device) { refs = slices.Collect(maps.Keys(rec.states)) })
	return refs
}

// HasReported reports whether the bucket has a report of a device about a Deployment.
func (r *Roster) HasReported(name string, ref wire.DeploymentRef) (has bool) {
	r.look(name, func(rec *device) { _, has = rec.states[ref] })
	return has
}

// CountReported is how many there are.
func (r *Roster) CountReported(name string) (n int) {
	r.look(name, func(rec *device) { n = len(rec.states) })
	return n
}
