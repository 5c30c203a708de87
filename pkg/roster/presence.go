package roster

import "time"

// Silence is how long a device may be quiet before it counts as gone: three
// heartbeat intervals.
const Silence = 90 * time.Second

// presence is when a device was heard. It goes by the monotonic clock, so that
// setting the server's clock makes nobody appear gone. A connection alone is not
// enough: the device counts as there from its first message on.
type presence struct {
	// last is when it was last heard, here whether it is there. Both are zero when it
	// was not heard since the start.
	last time.Time
	here bool
	// tooOld: its agent was refused, as too old, since it was last heard.
	tooOld bool
	// outdatedAt is when the outside was last told that its agent is too old.
	outdatedAt time.Time
}

// hear notes that a message of the device arrived.
func (p *presence) hear(name string, now time.Time, e *effects) {
	p.last, p.tooOld = now, false
	if !p.here {
		p.here = true
		e.changed(name)
	}
}

// Presence says when a device was last heard, and whether it is there. settled is
// false for a device that was not heard since the server started, but still may be.
func (r *Roster) Presence(name string) (last time.Time, present, settled bool) {
	settled = r.now().Sub(r.started) > Silence
	r.look(name, func(d *device) {
		last, present, settled = d.last, d.here, settled || !d.last.IsZero()
	})
	return last, present, settled
}

// Sweep notes which devices have been silent for too long, and returns the time
// until the next one could be.
func (r *Roster) Sweep() (next time.Duration) {
	now := r.now()
	next = Silence
	r.locked(func(e *effects) {
		for name, d := range r.devices {
			quiet := now.Sub(d.last)
			switch {
			case !d.here:
			case quiet >= Silence:
				d.here = false
				e.changed(name)
			default:
				next = min(next, Silence-quiet)
			}
		}
	})
	return next
}

// outdatedInterval is how often the outside is told that an agent is too old.
const outdatedInterval = time.Hour

// Outdated notes that the agent of a device is too old for this server. While a session
// of the device is there, which an old agent has not, it is somebody else with its key.
func (r *Roster) Outdated(name string) {
	r.update(name, func(d *device, e *effects) {
		if d.isThere(r.now()) {
			return
		}
		if !d.tooOld {
			d.tooOld = true
			e.changed(name)
		}
		if now := r.now(); d.outdatedAt.IsZero() || now.Sub(d.outdatedAt) >= outdatedInterval {
			d.outdatedAt, e.outdated = now, name
		}
	})
}

// IsTooOld reports whether the agent of a device was refused, as too old, since the device was
// last heard.
func (r *Roster) IsTooOld(name string) (is bool) {
	r.look(name, func(d *device) { is = d.tooOld })
	return is
}
