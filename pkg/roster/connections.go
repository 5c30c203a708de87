package roster

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
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
	// askInterval is how often a connection may ask to be the device beyond all budgets.
	askInterval = 2 * time.Second
)

// crowds is how many connections may make room for others before they have spoken. An
// agent that loses power again and again leaves one behind each time.
var crowds = rate{0.1, 10}

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
	// asked is when its session last asked beyond all budgets.
	asked time.Time
	// crowded: it makes room for another one, and is about to end.
	crowded bool
}

// connections is what is known of a device's connections.
type connections struct {
	open   []Connection
	bars   bars
	crowds bucket
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
		if d.makeRoom(e.drop, c) {
			d.suspectFlood(name, e)
		}
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
	own, from, places := map[string]int{}, map[string]int{}, maxOthers
	for _, c := range slices.Backward(d.open) {
		own[c.Session]++
		from[network(c.Proof.Address)]++
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
	for len(others) > places {
		i := surplusOf(others, from)
		ids = append(ids, others[i].ID)
		from[network(others[i].Proof.Address)]--
		others = slices.Delete(others, i, i+1)
	}
	return ids
}

// surplusOf returns which of several connections, the oldest first, makes room for the
// others: one that has spoken, as it has had its turn, or else one of the network that
// most connections of the device come from. So a crowd from elsewhere does not push the
// device out before it can speak.
func surplusOf(others []Connection, from map[string]int) (index int) {
	rank := func(c Connection) int {
		if c.spoken {
			return math.MaxInt
		}
		return from[network(c.Proof.Address)]
	}
	for i, c := range others {
		if rank(c) > rank(others[index]) {
			index = i
		}
	}
	return index
}

// network is where an address is: hosts have a /64 of IPv6 for themselves.
func network(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	addr := at.Addr().Unmap()
	if addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return addr.String()
	}
	return prefix.String()
}

// makeRoom notes which connections make room for the newest one, and reports whether so
// many of other sessions have not spoken that somebody crowds the device out.
func (c *connections) makeRoom(ids []uint64, newest Connection) (isCrowd bool) {
	for i := range c.open {
		o := &c.open[i]
		if o.crowded || !slices.Contains(ids, o.ID) {
			continue
		}
		o.crowded = true
		counts := !o.spoken && o.Session != newest.Session
		isCrowd = counts && !c.crowds.take(crowds, 1, newest.since) || isCrowd
	}
	return isCrowd
}

// Disconnected removes a connection that ended. With the last one the device is
// gone.
func (r *Roster) Disconnected(id uint64) {
	r.locked(func(e *effects) {
		if name := r.connected[id]; name != "" {
			delete(r.connected, id)
			r.closed(name, id, e)
		}
	})
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

// mayAsk reports whether a session has a connection that has not asked for a while.
func (c *connections) mayAsk(session string, now time.Time) bool {
	for i := range c.open {
		if o := &c.open[i]; o.Session == session && (o.asked.IsZero() || now.Sub(o.asked) >= askInterval) {
			o.asked = now
			return true
		}
	}
	return false
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
	r.locked(func(e *effects) {
		for name, d := range r.devices {
			if ids := idsOf(d.open, func(c Connection) bool { return match(d, c) }); len(ids) > 0 {
				e.drop, names = append(e.drop, ids...), append(names, name)
			}
		}
	})
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
