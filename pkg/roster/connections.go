package roster

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// maxOwn is how many connections one session may have: the one that it uses and one
	// that has not noticed yet that it is dead.
	maxOwn = 2
	// maxOthers is how many connections the sessions of a device have together that are
	// not the lead. It is one less while the lead has one, so that there is always a
	// place for a session that has yet to speak: it may be the device, and the lead its
	// copy.
	maxOthers = 2
)

// Proof is what a connection has shown in TLS.
type Proof struct {
	// Key is the SHA-256 of its public key in hex.
	Key string
	// Expires is when its certificate runs out.
	Expires time.Time
	// Address is where it comes from: IP:PORT.
	Address string
}

// Connection is a connection of a device to the bus.
type Connection struct {
	// ID names it to the bus.
	ID uint64
	// Session is what the client calls itself, a wire.ValidSession. A session is one
	// run of an agent, see wire.HeaderSession.
	Session string
	Proof   Proof
	// since is when it was added, spoken whether its session has said something over it.
	since  time.Time
	spoken bool
}

// connections is what is known of a device's connections.
type connections struct {
	open []Connection
	bars bars
}

// Reasons to refuse a connection of a device that may come in.
var (
	// ErrBarred: the device, or the session, floods the bus, and is kept out for a
	// while.
	ErrBarred = errors.New("the device sends too much and is kept out for a while")
	// ErrSecondSession: the connection belongs to another session already.
	ErrSecondSession = errors.New("the connection belongs to a session already")
)

// Connected adds a connection of a device that may come in, or refuses it with
// ErrBarred or ErrSecondSession, or with ErrUnknown when the device was forgotten
// since it was let in. Connections above what a device may have are dropped, see
// surplus. crowded tells that some were.
func (r *Roster) Connected(name string, c Connection) (crowded bool, err error) {
	known := r.update(name, func(d *device, e *effects) {
		switch {
		case d.isBarred(c.Session, r.now()):
			err = ErrBarred
			return
		case r.connected[c.ID] != "":
			err = ErrSecondSession
			return
		}
		c.since = r.now()
		d.open = append(d.open, c)
		r.connected[c.ID] = name
		e.drop = d.surplus()
		crowded = len(e.drop) > 0
	})
	if !known {
		return false, fmt.Errorf("%w %s", ErrUnknown, name)
	}
	return crowded, err
}

// surplus returns the connections above what the device may have: the oldest ones of a
// session with too many, then those of sessions that are not the lead, so that a copy of
// a device cannot drive the device out. Those that were dropped a moment ago may be among
// them still: the bus tells of their end later.
func (d *device) surplus() (ids []uint64) {
	var others []Connection
	own, places := map[string]int{}, maxOthers
	for _, c := range slices.Backward(d.open) {
		own[c.Session]++
		switch {
		case own[c.Session] > maxOwn:
			ids = append(ids, c.ID)
		case !d.isLead(c.Session):
			others = append(others, c)
		default:
			places = maxOthers - 1
		}
	}
	slices.Reverse(others) // the oldest first
	return append(ids, idsOf(surplusOf(others, places), all)...)
}

// surplusOf returns the connections for which there is no place, of those that are not
// the lead's, the oldest first. Those that have spoken have had their turn.
func surplusOf(others []Connection, places int) []Connection {
	slices.SortStableFunc(others, func(a, b Connection) int { return turn(a) - turn(b) })
	return others[:max(0, len(others)-places)]
}

func turn(c Connection) int {
	if c.spoken {
		return 0
	}
	return 1
}

// Disconnected removes a connection that ended. With the last one the device is
// gone.
func (r *Roster) Disconnected(id uint64) {
	r.mu.Lock()
	var e effects
	if name := r.connected[id]; name != "" {
		delete(r.connected, id)
		r.closed(name, id, &e)
	}
	r.mu.Unlock()
	r.do(e)
}

func (r *Roster) closed(name string, id uint64, e *effects) {
	d := r.devices[name]
	d.open = slices.DeleteFunc(d.open, func(c Connection) bool { return c.ID == id })
	if len(d.open) > 0 {
		return
	}
	d.open = nil
	if d.forgotten {
		delete(r.devices, name)
		return
	}
	d.here = false
	e.changed(name)
}

// Connections lists every connection: a bus that may have missed the end of some
// looks for them.
func (r *Roster) Connections() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := make([]uint64, 0, len(r.connected))
	for id := range r.connected {
		ids = append(ids, id)
	}
	return ids
}

// Count is the number of devices that have a connection.
func (r *Roster) Count() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.devices {
		if len(d.open) > 0 {
			n++
		}
	}
	return n
}

// DeviceOf names the device of a connection.
func (r *Roster) DeviceOf(connection uint64) (name string, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name, known = r.connected[connection]
	return name, known
}

// Proof returns what the newest connection of a session has shown, and false
// when the session has none.
func (r *Roster) Proof(name, session string) (p Proof, connected bool) {
	r.look(name, func(d *device) { p, connected = d.proof(session) })
	return p, connected
}

func (c *connections) proof(session string) (Proof, bool) {
	for _, c := range slices.Backward(c.open) {
		if c.Session == session {
			return c.Proof, true
		}
	}
	return Proof{}, false
}

// speaks notes that a session has said something.
func (c *connections) speaks(session string) {
	for i := range c.open {
		c.open[i].spoken = c.open[i].spoken || c.open[i].Session == session
	}
}

// dropSession drops the connections of a session.
func (c *connections) dropSession(session string, e *effects) {
	e.drop = append(e.drop, idsOf(c.open, func(o Connection) bool { return o.Session == session })...)
}

// isSurplus reports whether a connection is not of the lead, while there is one.
func (d *device) isSurplus(id uint64) bool {
	return d.hasLead() && slices.ContainsFunc(d.open, func(o Connection) bool { return o.ID == id && !d.isLead(o.Session) })
}

// Drop drops every connection of a device.
func (r *Roster) Drop(name string) { r.drop(name, all) }

// DropKey drops those that were made with a key.
func (r *Roster) DropKey(name, key string) {
	r.drop(name, func(c Connection) bool { return c.Proof.Key == key })
}

// DropOtherKeys drops those that were made with another key.
func (r *Roster) DropOtherKeys(name, key string) {
	r.drop(name, func(c Connection) bool { return c.Proof.Key != key })
}

func (r *Roster) drop(name string, match func(Connection) bool) {
	r.update(name, func(d *device, e *effects) { e.drop = idsOf(d.open, match) })
}

// DropExpired drops the connections whose certificate has run out at now, and
// returns their devices. TLS looks at a certificate only when a connection begins.
func (r *Roster) DropExpired(now time.Time) (names []string) {
	return r.dropEverywhere(func(_ *device, c Connection) bool { return now.After(c.Proof.Expires) })
}

// DropUnproven drops the connections that have lasted for so long and are not of
// their device's current session, and returns their devices.
func (r *Roster) DropUnproven(after time.Duration) (names []string) {
	since := r.now().Add(-after)
	return r.dropEverywhere(func(d *device, c Connection) bool { return c.Session != d.current.Session && c.since.Before(since) })
}

func (r *Roster) dropEverywhere(match func(*device, Connection) bool) (names []string) {
	r.mu.Lock()
	var e effects
	for name, d := range r.devices {
		if ids := idsOf(d.open, func(c Connection) bool { return match(d, c) }); len(ids) > 0 {
			e.drop, names = append(e.drop, ids...), append(names, name)
		}
	}
	r.mu.Unlock()
	r.do(e)
	return names
}

// all matches every connection.
func all(Connection) bool { return true }

// idsOf returns the ids of the connections that match.
func idsOf(open []Connection, match func(Connection) bool) (ids []uint64) {
	for _, c := range open {
		if match(c) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}
