package assigner

import "fleet.nationtech.io/fleet/pkg/assignment"

// Phase says how far a Deployment is. Its conditions and the metrics follow from it.
type Phase string

// Values of Phase.
const (
	// Accepted is a Deployment that is accepted and selects no device.
	Accepted   Phase = "accepted"
	Refused    Phase = "refused"
	RollingOut Phase = "rollingOut"
	RolledOut  Phase = "rolledOut"
	Failed     Phase = "failed"
)

// Phases are all of them.
var Phases = []Phase{Accepted, Refused, RollingOut, RolledOut, Failed}

// phaseOf is pure. A failure outweighs devices that are pending: somebody has to look.
func phaseOf(c assignment.Counts, accepted bool) Phase {
	switch {
	case !accepted:
		return Refused
	case c.Matched == 0:
		return Accepted
	case c.Failed > 0:
		return Failed
	case c.Pending > 0:
		return RollingOut
	}
	return RolledOut
}

// CountPhases returns how many Deployments are in each phase. It is called once the
// controller is ready.
func (c *Controller) CountPhases() map[Phase]int {
	n := map[Phase]int{}
	c.table.EachCounts(func(counts assignment.Counts, accepted bool) { n[phaseOf(counts, accepted)]++ })
	return n
}
