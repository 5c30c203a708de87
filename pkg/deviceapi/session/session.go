// Package session decides which of a device's sessions is the device.
//
// A session is one run of an agent, with a random id. One at a time is the
// current one of its device. Another takes over when the current one has lost
// its connection, or says nothing for Grace: that is a device that was switched
// off and on. When both go on talking, one of them is a copy.
//
// A copy that does not run at the same time is found by its nonce. The device
// keeps the newest nonce that it was given on its disk and shows it with each
// snapshot request. A copy of the disk shows an old one sooner or later.
//
// A session that is found to be a copy is quarantined: it keeps what it runs
// and gets nothing new, until an operator decides.
package session

import (
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// Grace is how long a current session that is connected may be silent before
	// another takes over. Devices send a heartbeat every 30 seconds.
	Grace = 45 * time.Second
	// rotation is how old a nonce gets.
	rotation = 24 * time.Hour
	// maxIssued is how many nonces may be on their way to a device.
	maxIssued = 4 // as the CRD says
	// maxQuarantined bounds the sessions that are remembered as copies.
	maxQuarantined = 64
)

// Nonce is what the API store keeps of a device's nonces: hashes, in hex.
type Nonce struct {
	// Shown is the one that the device last showed, or empty.
	Shown string
	// Issued are those that were given out since.
	Issued []string
	// Epoch is the epoch of manifests that they belong to.
	Epoch    string
	IssuedAt time.Time
}

// Observer is told of devices about which the table has something to store:
// see Table.Nonce and Table.Suspicion. Its method must not block.
type Observer interface {
	SessionChanged(device string)
}

// Connections are the connections of devices.
type Connections interface {
	// SessionConnected reports whether the session has a connection.
	SessionConnected(device, session string) bool
	// SetCurrentSession names the session whose connection goes last when a device
	// has too many.
	SetCurrentSession(device, session string)
}

// Table knows the sessions of every device.
type Table struct {
	observer    Observer
	connections Connections
	now         func() time.Time

	mu      sync.Mutex // guards devices and what they point to
	devices map[string]*device
}

type device struct {
	nonce *Nonce
	// offer is a nonce that the device should have; its hash is the last of
	// nonce.Issued. It is given out once that is stored.
	offer  string
	stored bool

	current string
	heard   time.Time
	// contender came while the current session was there.
	contender   contender
	quarantined []string
	suspicion   string
}

type contender struct {
	session string
	since   time.Time
}

// NewTable returns an empty table. now is a clock with a monotonic reading.
func NewTable(observer Observer, connections Connections, now func() time.Time) *Table {
	return &Table{observer: observer, connections: connections, now: now, devices: map[string]*device{}}
}

// Load sets what the API store has about a device, at a start.
func (t *Table) Load(name string, n *Nonce, suspicion string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.of(name)
	d.nonce, d.suspicion = n, suspicion
}

// Nonce returns what should be stored about a device, or nil.
func (t *Table) Nonce(name string) *Nonce {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of(name).nonce
}

// Stored tells that n is stored. It reports whether the device can be given a
// nonce that it does not have yet.
func (t *Table) Stored(name string, n *Nonce) (offer bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.of(name)
	if d.nonce == n && d.offer != "" && !d.stored {
		d.stored = true
		return true
	}
	return false
}

// Suspicion says why a session of the device is taken for a copy, or "".
func (t *Table) Suspicion(name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of(name).suspicion
}

// Accept forgets what is known about a device: whichever session asks next is
// the device.
func (t *Table) Accept(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.devices[name] = &device{}
}

// Forget removes a device.
func (t *Table) Forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.devices, name)
}

// of returns the record of a device; the caller holds mu.
func (t *Table) of(name string) *device {
	d := t.devices[name]
	if d == nil {
		d = &device{}
		t.devices[name] = d
	}
	return d
}

// ErrWait is the answer to a session that may take over soon.
var ErrWait = errors.New("another session of the device was heard a moment ago")

// Stray reports whether a session is not the device, as far as can be told: it
// was found to be a copy, or another one is the current session and there.
func (t *Table) Stray(name, session string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[name]
	if d == nil {
		return false
	}
	return slices.Contains(d.quarantined, session) || d.current != "" && d.current != session && t.connections.SessionConnected(name, d.current)
}

// Report decides about any message but a snapshot request: nil, or a
// *wire.Refusal. Before the first snapshot request every session is as good as
// another.
func (t *Table) Report(name, session string) error {
	changed, err := t.report(name, session)
	if changed {
		t.observer.SessionChanged(name)
	}
	return err
}

func (t *Table) report(name, session string) (changed bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, now := t.of(name), t.now()
	switch {
	case slices.Contains(d.quarantined, session):
		return false, Quarantine()
	case d.current == "" || d.current == session:
		d.heard = now
		return false, nil
	case t.isThere(name, d, now):
		if changed, err = d.contest(session, now); changed {
			return changed, err
		}
	}
	return false, &wire.Refusal{Code: wire.RefusedSession, Message: "another session of this device took over: fetch a snapshot"}
}

// isThere reports whether the current session has a connection and was heard a
// moment ago.
func (t *Table) isThere(name string, d *device, now time.Time) bool {
	return now.Sub(d.heard) < Grace && t.connections.SessionConnected(name, d.current)
}

// Snapshot decides about a snapshot request that shows a nonce. It returns a
// nonce for the device to keep, or "", and nil, ErrWait or a *wire.Refusal.
func (t *Table) Snapshot(name, session, nonce, epoch string) (offer string, err error) {
	offer, changed, took, err := t.snapshot(name, session, nonce, epoch)
	if changed {
		t.observer.SessionChanged(name)
	}
	if took {
		t.connections.SetCurrentSession(name, session)
	}
	return offer, err
}

func (t *Table) snapshot(name, session, nonce, epoch string) (offer string, changed, took bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, now := t.of(name), t.now()
	if slices.Contains(d.quarantined, session) {
		return "", false, false, Quarantine()
	}
	if d.current != "" && d.current != session && t.isThere(name, d, now) {
		changed, err := d.contest(session, now)
		return "", changed, false, err
	}
	next, changed, stale := d.nonce.show(hash(nonce), epoch)
	if stale {
		return "", true, false, d.quarantine(session, "a session shows a nonce that the device had long ago")
	}
	if changed {
		d.offer, d.stored = "", false
	}
	if next.due(now) && (d.offer == "" || now.Sub(next.IssuedAt) >= rotation) {
		d.offer, d.stored = rand.Text(), false
		next, changed = next.issue(hash(d.offer), now), true
	}
	if changed {
		d.nonce = &next
	}
	took, d.current, d.heard = d.current != session, session, now
	if d.stored {
		offer = d.offer
	}
	return offer, changed, took, nil
}

// contest is about a session that comes while the current one is there. It
// waits; if the current one is heard meanwhile, it is a copy.
func (d *device) contest(session string, now time.Time) (changed bool, err error) {
	if d.contender.session != session {
		d.contender = contender{session, now}
		return false, ErrWait
	}
	if d.heard.After(d.contender.since) {
		return true, d.quarantine(session, "two sessions of the device talk at the same time")
	}
	return false, ErrWait
}

func (d *device) quarantine(session, reason string) error {
	d.quarantined = append(d.quarantined, session)
	if n := len(d.quarantined) - maxQuarantined; n > 0 {
		d.quarantined = d.quarantined[n:]
	}
	d.suspicion = reason
	return Quarantine()
}

// Quarantine is the answer to a copy.
func Quarantine() *wire.Refusal {
	return &wire.Refusal{
		Code:    wire.RefusedQuarantined,
		Message: "this device looks like a copy of another: an operator has to decide with `fleet-server device accept` or `fleet-server device revoke`",
	}
}

func hash(nonce string) string {
	if nonce == "" {
		return ""
	}
	return wire.Sum([]byte(nonce)).String()
}
