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
	until time.Time
	// except is the one session that may connect before until; empty for none.
	except string
	// sessions are barred one by one.
	sessions []barred
}

type barred struct {
	session string
	until   time.Time
}

// bar bars all sessions, or all but one. It weakens nothing that is in force.
func (b *bars) bar(except string, now time.Time) {
	if b.except == "" && now.Before(b.until) {
		except = ""
	}
	b.until, b.except = now.Add(BarTime), except
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

func (b *bars) has(session string, now time.Time) bool {
	all := !now.After(b.until) && !b.until.IsZero() && b.except != session // no session is ""
	return all || slices.ContainsFunc(b.inForce(now), func(s barred) bool { return s.session == session })
}

// Bar drops a device that floods the bus, and keeps it out for BarTime.
func (r *Roster) Bar(name string) {
	r.update(name, func(d *device, e *effects) { d.bar(r.now(), e) })
}

func (c *connections) bar(now time.Time, e *effects) {
	c.bars.bar("", now)
	e.drop = append(e.drop, idsOf(c.open, all)...)
}

// BarStrays is Bar for what is not of the device's current session: what a copy
// of a device does is not held against the device. Without a current session
// all are dropped, and may come back.
func (r *Roster) BarStrays(name string) {
	r.update(name, func(d *device, e *effects) { d.barStrays(r.now(), e) })
}

func (c *connections) barStrays(now time.Time, e *effects) {
	if c.lead != "" {
		c.bars.bar(c.lead, now)
	}
	e.drop = append(e.drop, idsOf(c.open, func(o Connection) bool { return c.lead == "" || o.Session != c.lead })...)
}

// BarSession is Bar for one session.
func (r *Roster) BarSession(name, session string) {
	r.update(name, func(d *device, e *effects) {
		d.bars.barSession(session, r.now())
		e.drop = idsOf(d.open, func(c Connection) bool { return c.Session == session })
	})
}

// Misused bars the device of a connection that breaks the rules of the bus, or its
// strays, and reports false for a connection of nobody.
func (r *Roster) Misused(connection uint64) (known bool) {
	name, _ := r.DeviceOf(connection)
	return r.update(name, func(d *device, e *effects) {
		if d.isSurplus(connection) {
			d.barStrays(r.now(), e)
		} else {
			d.bar(r.now(), e)
		}
	})
}
