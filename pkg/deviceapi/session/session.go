// Package session decides which of a device's sessions is the device.
//
// A session is one run of an agent, with a random id that only it and the server
// know. One at a time is the current one of its device. Another takes over when
// the current one has lost its connection, or says nothing for Grace: that is a
// device that was switched off and on. When both go on talking, one of them is a
// copy.
//
// A copy that does not run at the same time is found by its nonce. The device
// keeps the newest nonce that it was given on its disk and shows it with each
// snapshot request. A copy of the disk shows an old one sooner or later.
//
// A session proves that it is the device by a snapshot request that is accepted.
// Before that it is given nothing. A session that is found to be a copy is
// quarantined: it keeps what it runs and gets nothing new, until an operator
// accepts it or the other.
package session

import (
	"cmp"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/bus"
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
	// maxQuarantined bounds the sessions that are remembered as copies, maxRetired the
	// keys that are remembered to have been shown after they were replaced.
	maxQuarantined = 64
	maxRetired     = 16
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

// Suspicion is why a session is taken for a copy of a device.
type Suspicion string

// Values of Suspicion.
const (
	// StaleNonce: it shows a nonce that the device had long ago.
	StaleNonce Suspicion = "StaleNonce"
	// TwoSessions: it talks while another session of the device does.
	TwoSessions Suspicion = "TwoSessions"
	// RetiredKey: it connects with a key that the device replaced by a renewal, and
	// that only a copy, or the device if a copy renewed, would show.
	RetiredKey Suspicion = "RetiredKey"
	// NotAccepted: an operator accepted another session, which has not come yet.
	NotAccepted Suspicion = "NotAccepted"
)

// Record is what the API store keeps of a device.
type Record struct {
	Nonce *Nonce
	// Suspicion is why one of the device's sessions is taken for a copy, or "".
	Suspicion Suspicion
	// Accepted is the Claimant.Label that an operator accepted and that has not
	// come back yet, or "".
	Accepted string
}

// Claimant is a session that claims to be the device.
type Claimant struct {
	// Session is its id, a secret.
	Session string
	// Label names the session to people: wire.SessionLabel.
	Label string
	// Hardware is what the machine says that it is, or empty.
	Hardware string
	// Capabilities is what the agent says that it can do; nil when it does not say.
	Capabilities []wire.Capability
	Proof        bus.Proof
	// Current: it is taken for the device; else it is quarantined.
	Current bool
}

// Observer is told of what becomes of devices. Its methods must not block.
type Observer interface {
	// SessionChanged tells that there is something to store about the device: see
	// Table.Record and Table.Claimants.
	SessionChanged(device string)
	// SessionProven tells with which key the current session of the device connects,
	// when that is another than before.
	SessionProven(device string, p bus.Proof)
}

// Connections are what the table asks of bus.Connections.
type Connections interface {
	Proof(device, session string) (bus.Proof, bool)
	SetCurrent(device, session string)
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

	// current is the zero value before the first session has proven itself.
	current Claimant
	heard   time.Time
	// contender came while the current session was there.
	contender   contender
	quarantined []Claimant
	suspicion   Suspicion
	accepted    string
	// retired are the retired keys that were shown, and presenter is who showed the one
	// that raised the suspicion.
	retired   []string
	presenter Claimant
}

type contender struct {
	Claimant
	since time.Time
}

// NewTable returns an empty table. now is a clock with a monotonic reading.
func NewTable(observer Observer, connections Connections, now func() time.Time) *Table {
	return &Table{observer: observer, connections: connections, now: now, devices: map[string]*device{}}
}

// Load sets what the API store has about a device, at a start.
func (t *Table) Load(name string, r Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.of(name)
	d.nonce, d.suspicion, d.accepted = r.Nonce, r.Suspicion, r.Accepted
}

// Record returns what should be stored about a device.
func (t *Table) Record(name string) Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.of(name)
	return Record{Nonce: d.nonce, Suspicion: d.suspicion, Accepted: d.accepted}
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

// Suspected reports whether a session of the device that may come in is taken for a
// copy. One with a retired key may not: it neither gets anything nor renews.
func (t *Table) Suspected(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[name]
	return d != nil && d.suspicion != "" && d.suspicion != RetiredKey
}

// Claimants returns the sessions that claim to be the device: the current one,
// if there is one, then those in quarantine, the newest first, then the one whose
// key was retired, while that is why a copy is suspected.
func (t *Table) Claimants(name string) []Claimant {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[name]
	if d == nil {
		return nil
	}
	var all []Claimant
	if d.current.Session != "" {
		all = append(all, d.current)
	}
	for _, c := range slices.Backward(d.quarantined) {
		all = append(all, c)
	}
	if d.suspicion == RetiredKey && d.presenter.Proof.Key != "" && !d.isQuarantined(d.presenter.Session) {
		all = append(all, d.presenter)
	}
	return all
}

// Retired tells that a session shows a key that a renewal replaced, and that is
// refused for it. A copy would, or the device, if a copy has renewed. So would a
// device that was refused for another reason before it heard that its next key
// counts, since it tries both in turn: that one is known by its session, before or
// after. A key raises the suspicion once, however often it is shown, and not again
// when an operator has decided.
func (t *Table) Retired(name, session string, p bus.Proof) {
	// One that names no session is named by its key.
	c := Claimant{Session: session, Label: wire.SessionLabel(cmp.Or(session, p.Key)), Proof: p}
	t.mu.Lock()
	changed := t.of(name).noteRetired(c)
	t.mu.Unlock()
	if changed {
		t.observer.SessionChanged(name)
	}
}

func (d *device) noteRetired(c Claimant) (changed bool) {
	if c.Session != "" && c.Session == d.current.Session {
		return false
	}
	if slices.Contains(d.retired, c.Proof.Key) {
		return false
	}
	d.retired = append(d.retired, c.Proof.Key)
	if n := len(d.retired) - maxRetired; n > 0 {
		d.retired = d.retired[n:]
	}
	if d.suspicion != "" && (d.suspicion != RetiredKey || d.presenter.Proof.Key != "") {
		return false // there is something to decide already
	}
	d.suspicion, d.presenter = RetiredKey, c
	return true
}

// vindicate takes the suspicion back when the session that showed a retired key has
// proven itself with the next one: it was the device.
func (d *device) vindicate(session string) (changed bool) {
	if d.presenter.Session != session {
		return false
	}
	key := d.presenter.Proof.Key
	d.presenter = Claimant{}
	d.retired = slices.DeleteFunc(d.retired, func(k string) bool { return k == key })
	if d.suspicion != RetiredKey {
		return false
	}
	d.suspicion = ""
	return true
}

// Current returns the id of the session that is taken for the device, or "".
func (t *Table) Current(name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.devices[name]; d != nil {
		return d.current.Session
	}
	return ""
}

// Capabilities returns what the device's agent says that it can do: nil when it
// does not say. It returns false before a session has proven itself.
func (t *Table) Capabilities(name string) (can []wire.Capability, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.devices[name]; d != nil && d.current.Session != "" {
		return d.current.Capabilities, true
	}
	return nil, false
}

// Accept takes the session with a label for the device, and no other: the operator
// has decided. When it is not the current one, it becomes that when it next asks,
// whatever nonce it shows, and the current one is quarantined now.
func (t *Table) Accept(name, label string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.of(name)
	d.suspicion, d.accepted, d.presenter = "", "", Claimant{}
	if d.current.Label == label {
		return
	}
	d.accepted = label
	d.quarantined = slices.DeleteFunc(d.quarantined, func(c Claimant) bool { return c.Label == label })
	if d.current.Session != "" {
		d.setAside(d.current)
		d.current = Claimant{}
	}
}

// Forget removes a device, or what is known of one that enrolled again.
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
	return d.isQuarantined(session) || d.current.Session != "" && d.current.Session != session && t.isConnected(name, d)
}

// Report decides about any message but a snapshot request: nil, or a
// *wire.Refusal. Only a session that has proven itself may report and fetch:
// whoever has a copy of the device's key can connect.
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
	case d.isQuarantined(session):
		return false, Quarantine()
	case d.current.Session == "":
		return false, &wire.Refusal{Code: wire.RefusedSession, Message: "this session has not proven itself: fetch a snapshot"}
	case d.current.Session == session:
		d.heard = now
		return false, nil
	case t.isThere(name, d, now):
		claimant, connected := t.claimant(name, session, "")
		if !connected { // a name that somebody made up, and who is behind it cannot be told
			claimant = Claimant{}
		}
		if changed, err = d.contest(claimant, now); connected && !errors.Is(err, ErrWait) {
			return changed, err
		}
	}
	return changed, &wire.Refusal{Code: wire.RefusedSession, Message: "another session of this device took over: fetch a snapshot"}
}

// isThere reports whether the current session has a connection and was heard a
// moment ago.
func (t *Table) isThere(name string, d *device, now time.Time) bool {
	return now.Sub(d.heard) < Grace && t.isConnected(name, d)
}

func (t *Table) isConnected(name string, d *device) bool {
	_, connected := t.connections.Proof(name, d.current.Session)
	return connected
}

// claimant is what is known of a session, and whether that has a connection.
func (t *Table) claimant(name, session, hardware string) (c Claimant, connected bool) {
	proof, connected := t.connections.Proof(name, session)
	return Claimant{Session: session, Label: wire.SessionLabel(session), Hardware: hardware, Proof: proof}, connected
}

// Snapshot decides about a snapshot request that shows a nonce, of a machine that
// says which it is. It returns a nonce for the device to keep, or "", and nil,
// ErrWait or a *wire.Refusal. With nil the session has proven itself.
func (t *Table) Snapshot(name, session string, shown Shown) (offer string, err error) {
	s, err := t.snapshot(name, session, shown)
	if s.changed {
		t.observer.SessionChanged(name)
	}
	if err != nil {
		return "", err
	}
	t.connections.SetCurrent(name, session)
	if s.proven != nil {
		t.observer.SessionProven(name, *s.proven)
	}
	return s.offer, nil
}

// Shown is what a snapshot request shows of the machine that sends it.
type Shown struct {
	// Nonce is the newest one that it has on its disk.
	Nonce string
	// Hardware is the id that it claims, or empty.
	Hardware string
	// Capabilities is what the agent says that it can do.
	Capabilities []wire.Capability
	// Epoch is that of the server's manifests.
	Epoch string
}

// step is what came of a snapshot request.
type step struct {
	offer   string
	changed bool
	// proven is set when the current session connects with another key than before.
	proven *bus.Proof
}

func (t *Table) snapshot(name, session string, shown Shown) (step, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, now := t.of(name), t.now()
	claimant, connected := t.claimant(name, session, shown.Hardware)
	if !connected {
		return step{}, ErrWait // it will ask again over the next one
	}
	claimant.Capabilities = shown.Capabilities
	if d.isQuarantined(session) {
		return step{}, Quarantine()
	}
	if d.accepted != "" {
		return d.readmit(claimant, shown, now)
	}
	if d.current.Session != "" && d.current.Session != session && t.isThere(name, d, now) {
		changed, err := d.contest(claimant, now)
		return step{changed: changed}, err
	}
	return d.admit(claimant, shown, now)
}

// readmit decides about a session while the one that an operator accepted has
// not come back. That one begins with new nonces, as its own may be old.
func (d *device) readmit(c Claimant, shown Shown, now time.Time) (step, error) {
	if c.Label != d.accepted {
		return step{changed: true}, d.quarantine(c, NotAccepted)
	}
	d.accepted, d.nonce = "", nil
	return d.admit(c, shown, now)
}

// admit makes a session the current one, unless its nonce is that of a copy.
func (d *device) admit(c Claimant, shown Shown, now time.Time) (s step, err error) {
	next, changed, stale := d.nonce.show(hash(shown.Nonce), shown.Epoch)
	if stale {
		return step{changed: true}, d.quarantine(c, StaleNonce)
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
	if d.current.Session != c.Session || d.current.Proof.Key != c.Proof.Key || !d.current.Proof.Expires.Equal(c.Proof.Expires) {
		s.proven = &c.Proof
	}
	c.Current = true
	if d.current.Session != c.Session {
		d.contender = contender{}
	}
	d.current, d.heard = c, now
	if d.stored {
		s.offer = d.offer
	}
	s.changed = d.vindicate(c.Session) || changed
	return s, nil
}

// contest is about a session that comes while the current one is there. It
// waits; if the current one is heard meanwhile, it is a copy. So is one that was
// followed by the next: a copy may take a new name each time it asks.
func (d *device) contest(c Claimant, now time.Time) (changed bool, err error) {
	both := !d.contender.since.IsZero() && d.heard.After(d.contender.since)
	switch {
	case d.contender.Session == c.Session && both:
		d.contender = contender{}
		return true, d.quarantine(c, TwoSessions)
	case d.contender.Session == c.Session && !d.contender.since.IsZero():
		return false, ErrWait
	case both:
		_ = d.quarantine(d.contender.Claimant, TwoSessions) // it is not the one that asks
	}
	d.contender = contender{c, now}
	return both, ErrWait
}

func (d *device) quarantine(c Claimant, why Suspicion) error {
	if c.Session != "" {
		d.setAside(c)
	}
	d.suspicion = why
	return Quarantine()
}

// setAside puts a session among those that are no device.
func (d *device) setAside(c Claimant) {
	c.Current = false
	d.quarantined = append(d.quarantined, c)
	if n := len(d.quarantined) - maxQuarantined; n > 0 {
		d.quarantined = d.quarantined[n:]
	}
}

func (d *device) isQuarantined(session string) bool {
	return slices.ContainsFunc(d.quarantined, func(c Claimant) bool { return c.Session == session })
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
