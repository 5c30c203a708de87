package rollout

import "time"

// Outcome is what a device reports about what it was given.
type Outcome uint8

// Values of Outcome.
const (
	// Pending: nothing that is about what it was given, or that it is not ready.
	Pending Outcome = iota
	// Ready: it runs what it was given; of a device that the Deployment was taken off, that
	// it is gone.
	Ready
	// Failed: it tried and failed.
	Failed
)

// Facts are what the API and the bus say of a device.
type Facts struct {
	Name string
	// Labels are never changed.
	Labels map[string]string
	// Zone is the name of its time zone; empty when nobody said it.
	Zone string
	// Matched: the Deployment belongs on the device. If not, it is taken off.
	Matched bool
	// Held: whatever the rollout says, the device cannot be given the revision now. Its agent
	// is too old, for example, or the score cannot be rendered for it.
	Held      bool
	Connected bool
	// Changed: what the revision says to this device changed since it was given it, such as
	// a value of its template. It is set once for each change, and in a Setup if the bus has
	// an earlier content than the present one.
	Changed bool

	// Unknown: nobody knows yet what the device was given. Until somebody does, it keeps it.
	Unknown bool
	// Given is the revision that it was given, empty for none, and Outcome what it reports
	// about it. They count for a device that was Unknown or is new.
	Given   string
	Outcome Outcome
}

// stage is how far a device is with what it was given.
type stage uint8

const (
	// settled: it has what it was given.
	settled stage = iota
	// changing: it was given it, and has said neither that it is ready for long enough nor
	// that it failed.
	changing
	failed
	// late: it has been changing for longer than the deadline.
	late
)

type flags uint8

const (
	matched flags = 1 << iota
	held
	connected
	unknown
	// changed: it was given an earlier content of the revision.
	changed
	// away: it has been disconnected for so long that nobody waits for it.
	away
	// flying: it is among the flights.
	flying
)

// device is a record of the Plan, by number. There may be a million.
type device struct {
	name   string
	labels map[string]string
	// zoneName is as the facts have it.
	zoneName string
	// given is the number of a revision, 0 for none.
	given uint32
	// class and group are numbers.
	class, group uint32
	// life tells devices apart that had the same number one after the other.
	life uint32
	// since is when it was given what it was given last, ready since when it is ready and
	// connected, gone since when it is disconnected.
	since, ready, gone time.Duration

	stage   stage
	outcome Outcome
	flags   flags
	// batch is the number, from 1, of the batch that took it in this rollout; 0 for none.
	batch uint8
}

func (d *device) is(f flags) bool { return d.flags&f != 0 }

func (d *device) set(f flags, on bool) {
	if on {
		d.flags |= f
	} else {
		d.flags &^= f
	}
}

func (d *device) bad() bool { return d.stage == failed || d.stage == late }

// status is how a device counts. Each has one.
type status uint8

const (
	// statusWaiting: it is connected, and was not given the revision.
	statusWaiting status = iota
	// statusGone: it was disconnected lately, and was not given the revision. The rollout
	// waits for its return for a while.
	statusGone
	// statusAbsent: the same for so long that nobody waits for it.
	statusAbsent
	// statusHeld: it cannot be given the revision now.
	statusHeld
	// statusUnknown: nobody knows what it was given.
	statusUnknown
	// statusReached: it was given the revision and is changing.
	statusReached
	statusSucceeded
	statusFailed
	statusLate
	// statusLeaving: the Deployment does not belong on it, whether it has it or not.
	statusLeaving

	statuses = iota
)

// lacks reports whether a matched device is to be given the revision.
func (p *Plan) lacks(d *device) bool { return p.want == 0 || d.given != p.want || d.is(changed) }

func (p *Plan) status(d *device) status {
	switch {
	case !d.is(matched):
		return statusLeaving
	case d.is(unknown):
		return statusUnknown
	case !p.lacks(d):
		return [...]status{settled: statusSucceeded, changing: statusReached, failed: statusFailed, late: statusLate}[d.stage]
	case d.is(held):
		return statusHeld
	case d.is(connected):
		return statusWaiting
	case d.is(away):
		return statusAbsent
	}
	return statusGone
}

// current reports whether a device was given what it should have, whatever became of it.
func (p *Plan) current(d *device) bool {
	if d.is(matched) {
		return d.given == p.want
	}
	return d.given == 0
}

// out reports whether a device takes a place in the budget. One that was given something keeps
// its place until it has settled or its deadline has passed, and longer if that is what it
// should have: it may have been cut off by it. Others take one while they are connected and
// not ready.
func (p *Plan) out(d *device) bool {
	switch {
	case d.stage == changing:
		return true
	case d.given == 0 || d.is(unknown):
		return false
	case d.bad() && p.current(d):
		return true
	}
	return d.is(connected) && (d.bad() || d.outcome != Ready)
}

// inFlight reports whether what was decided about a device has to outlive the process.
func (p *Plan) inFlight(d *device) bool {
	return d.stage == changing || d.bad() && d.is(matched) && p.current(d)
}
