package roster

import (
	"slices"
	"time"
)

const (
	// BarTime is how long a device that was dropped for a flood is kept out. What it
	// sent before has to be worked off by then, at the cost of others: a device
	// that could come back at once would keep them waiting for ever.
	BarTime = 30 * time.Second
	// maxBarred bounds the sessions of a device that are remembered to be barred.
	maxBarred = 64
)

// bars says which sessions of a device may not connect for a while.
type bars struct {
	// all may not connect before a time, strays not before another.
	all, strays time.Time
	// straysSince is when the bar of the strays began that is in force.
	straysSince time.Time
	// sessions are barred one by one.
	sessions []barred
}

type barred struct {
	session string
	until   time.Time
}

func (b *bars) barSession(session string, now time.Time) {
	b.sessions = append(b.inForce(now), barred{session, now.Add(BarTime)})
	if surplus := len(b.sessions) - maxBarred; surplus > 0 {
		b.sessions = b.sessions[surplus:]
	}
}

// inForce forgets what has ended.
func (b *bars) inForce(now time.Time) []barred {
	b.sessions = slices.DeleteFunc(b.sessions, func(s barred) bool { return now.After(s.until) })
	return b.sessions
}

// isBarred reports whether a session may not connect now.
func (d *device) isBarred(session string, now time.Time) bool {
	b := &d.bars
	return inForce(b.all, now) || inForce(b.strays, now) && d.hasLead() && !d.isLead(session) ||
		slices.ContainsFunc(b.inForce(now), func(s barred) bool { return s.session == session })
}

// inForce reports whether a bar has begun and not ended.
func inForce(until, now time.Time) bool { return !until.IsZero() && !now.After(until) }

// Bar drops a device that floods the bus, and keeps it out for BarTime.
func (r *Roster) Bar(name string) {
	r.update(name, func(d *device, e *effects) { d.bar(r.now(), e) })
}

func (c *connections) bar(now time.Time, e *effects) {
	c.bars.all = now.Add(BarTime)
	e.drop = append(e.drop, idsOf(c.open, all)...)
}

// BarStrays is Bar for what is not of the lead: what a copy of a device does is not held
// against the device. Without a lead all are dropped, and may come back.
func (r *Roster) BarStrays(name string) {
	r.update(name, func(d *device, e *effects) { d.barStrays(r.now(), e) })
}

func (d *device) barStrays(now time.Time, e *effects) {
	if d.hasLead() {
		if !inForce(d.bars.strays, now) {
			d.bars.straysSince = now
		}
		d.bars.strays = now.Add(BarTime)
	}
	e.drop = append(e.drop, idsOf(d.open, func(o Connection) bool { return !d.isLead(o.Session) })...)
}

// BarSession is Bar for one session.
func (r *Roster) BarSession(name, session string) {
	r.update(name, func(d *device, e *effects) { d.barOne(session, r.now(), e) })
}

func (c *connections) barOne(session string, now time.Time, e *effects) {
	c.bars.barSession(session, now)
	c.dropSession(session, e)
}

// stop drops whoever floods the bus in the name of a session, and keeps them out: the
// session first, and the others with it when that has not helped for a while. Names are
// the client's choice, but for the lead's, which only the device knows.
func (d *device) stop(name, session string, lasting bool, now time.Time, e *effects) Verdict {
	if d.isLead(session) {
		if lasting {
			d.bar(now, e)
		} else {
			d.barOne(session, now, e)
		}
		return DroppedDevice
	}
	if !d.isQuarantined(session) {
		d.suspectFlood(name, e)
	}
	flooders := d.flooders(session)
	switch {
	case d.straysAreGone(now):
		d.bar(now, e)
		return DroppedDevice
	case lasting && !d.hasLead():
		d.bar(now, e)
	case lasting, len(flooders) == 0 && d.isConnected() && now.Sub(d.bars.strays) > BarTime:
		d.barStrays(now, e)
	case len(flooders) == 0:
		d.barOne(session, now, e)
	default:
		for _, s := range flooders {
			d.barOne(s, now, e)
		}
	}
	return DroppedStrays
}

// flooders are the sessions that may flood the bus in the name of one which is not the
// lead: that one, or if it has no connection, all that have one.
func (d *device) flooders(session string) (sessions []string) {
	if _, connected := d.proof(session); connected {
		return []string{session}
	}
	for _, c := range d.open {
		if !d.isLead(c.Session) {
			sessions = append(sessions, c.Session)
		}
	}
	return sessions
}

// straysAreGone reports whether strays have been kept out for so long that what still
// comes in their name comes from the device.
func (d *device) straysAreGone(now time.Time) bool {
	return inForce(d.bars.strays, now) && now.Sub(d.bars.straysSince) >= lastingKicks && d.isConnected()
}

// Misused stops the session of a connection that breaks the rules of the bus, and reports
// false for a connection of nobody.
func (r *Roster) Misused(connection uint64) (known bool) {
	name, _ := r.DeviceOf(connection)
	return r.update(name, func(d *device, e *effects) {
		i := slices.IndexFunc(d.open, func(c Connection) bool { return c.ID == connection })
		if i < 0 {
			return
		}
		session, now := d.open[i].Session, r.now()
		d.stop(name, session, d.budgetOf(session).kick(now), now, e)
	})
}
