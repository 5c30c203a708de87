package roster

import (
	"cmp"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Which of a device's sessions is the device:
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
	// UnprovenFlood: sessions that have not proven that they are the device send too
	// much, or crowd each other out.
	UnprovenFlood Suspicion = "UnprovenFlood"
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
	// Session is the Claimant.Label of the session that last proved that it is the
	// device, or "". After a restart of the server that one keeps its place.
	Session string
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
	Proof        Proof
	// Current: it is taken for the device; else it is quarantined.
	Current bool
	// heard is when it was last heard, if it is not the current one.
	heard time.Time
}

// sessions is what is known of a device's sessions.
type sessions struct {
	nonce *Nonce
	// offer is a nonce that the device should have; its hash is the last of
	// nonce.Issued. It is given out once that is stored.
	offer  string
	stored bool
	// current is the zero value before the first session has proven itself.
	current Claimant
	heard   time.Time
	// proven is the label of the current session, or of the last one before a restart.
	proven string
	// contender came while the current session was there.
	contender   contender
	quarantined []Claimant
	suspicion   Suspicion
	accepted    string
	// shownRetired are the retired keys that were shown, and presenter is who showed
	// the one that raised the suspicion.
	shownRetired []string
	presenter    Claimant
}

type contender struct {
	Claimant
	since time.Time
}

// Load sets what the API store has about a device, at a start.
func (r *Roster) Load(name string, rec Record) {
	r.change(name, func(d *device, _ *effects) {
		d.nonce, d.suspicion, d.accepted, d.proven = rec.Nonce, rec.Suspicion, rec.Accepted, rec.Session
	})
}

// Record returns what should be stored about a device.
func (r *Roster) Record(name string) (rec Record) {
	r.look(name, func(d *device) {
		rec = Record{Nonce: d.nonce, Suspicion: d.suspicion, Accepted: d.accepted, Session: d.proven}
	})
	return rec
}

// Stored tells that n is stored. It reports whether the device can be given a
// nonce that it does not have yet.
func (r *Roster) Stored(name string, n *Nonce) (offer bool) {
	r.look(name, func(d *device) {
		if d.nonce == n && d.offer != "" && !d.stored {
			d.stored, offer = true, true
		}
	})
	return offer
}

// Suspected reports whether a session of the device that may come in is taken for a
// copy. One with a retired key may not: it neither gets anything nor renews.
func (r *Roster) Suspected(name string) (is bool) {
	r.look(name, func(d *device) { is = d.suspicion != "" && d.suspicion != RetiredKey })
	return is
}

// showsRetired notes that a session shows a key that a renewal replaced, and that is
// refused for it. A copy would, or the device, if a copy has renewed. So would a
// device that was refused for another reason before it heard that its next key
// counts, since it tries both in turn: that one is known by its session, before or
// after. A key raises the suspicion once, however often it is shown, and not again
// when an operator has decided.
func (r *Roster) showsRetired(name, session string, p Proof) {
	// One that names no session is named by its key.
	c := Claimant{Session: session, Label: wire.SessionLabel(cmp.Or(session, p.Key)), Proof: p}
	r.update(name, func(d *device, e *effects) {
		if d.bound && d.exit == in && d.noteRetired(c) {
			e.changed(name)
		}
	})
}

func (d *sessions) noteRetired(c Claimant) (changed bool) {
	if c.Session != "" && c.Session == d.current.Session {
		return false
	}
	if slices.Contains(d.shownRetired, c.Proof.Key) {
		return false
	}
	d.shownRetired = append(d.shownRetired, c.Proof.Key)
	if n := len(d.shownRetired) - maxRetired; n > 0 {
		d.shownRetired = d.shownRetired[n:]
	}
	if d.suspicion != "" && (d.suspicion != RetiredKey || d.presenter.Proof.Key != "") {
		return false // there is something to decide already
	}
	d.suspicion, d.presenter = RetiredKey, c
	return true
}

// vindicate takes the suspicion back when the session that showed a retired key has
// proven itself with the next one: it was the device.
func (d *sessions) vindicate(session string) (changed bool) {
	if d.presenter.Session != session {
		return false
	}
	key := d.presenter.Proof.Key
	d.presenter = Claimant{}
	d.shownRetired = slices.DeleteFunc(d.shownRetired, func(k string) bool { return k == key })
	if d.suspicion != RetiredKey {
		return false
	}
	d.suspicion = ""
	return true
}

// Current returns the id of the session that is taken for the device, or "".
func (r *Roster) Current(name string) (session string) {
	r.look(name, func(d *device) { session = d.current.Session })
	return session
}

// Capabilities returns what the device's agent says that it can do: nil when it
// does not say. It returns false before a session has proven itself.
func (r *Roster) Capabilities(name string) (can []wire.Capability, known bool) {
	r.look(name, func(d *device) { can, known = d.current.Capabilities, d.current.Session != "" })
	return can, known
}

// Accept takes the session with a label for the device, and no other: the operator
// has decided. When it is not the current one, it becomes that when it next asks,
// whatever nonce it shows, and the current one is quarantined now. It may come back at
// once.
func (r *Roster) Accept(name, label string) {
	r.change(name, func(d *device, e *effects) { d.accept(label, e) })
}

func (d *device) accept(label string, e *effects) {
	d.suspicion, d.accepted, d.presenter = "", "", Claimant{}
	if d.current.Label == label {
		return
	}
	d.accepted, d.proven = label, ""
	d.quarantined = slices.DeleteFunc(d.quarantined, func(c Claimant) bool { return c.Label == label })
	d.bars.sessions = slices.DeleteFunc(d.bars.sessions, func(s barred) bool { return d.isLead(s.session) })
	if d.current.Session != "" {
		d.dropSession(d.current.Session, e)
		d.setAside(d.current)
	}
}

// isLead reports whether a session is the device, as far as is known: the one that an
// operator accepted, or else the current one, connected or not, or else the last one from
// before the server's start. Whatever depends on who the device is goes by it.
func (d *sessions) isLead(session string) bool {
	switch {
	case session == "":
		return false
	case d.accepted != "":
		return wire.SessionLabel(session) == d.accepted
	case d.current.Session != "":
		return session == d.current.Session
	}
	return d.proven != "" && wire.SessionLabel(session) == d.proven
}

func (d *sessions) hasLead() bool { return d.accepted != "" || d.proven != "" }

// suspectFlood notes that sessions that are not known to be the device send too much.
// Before the first session has proven itself, and while the one that an operator accepted
// has yet to come, that is no sign of a copy that is not known.
func (d *sessions) suspectFlood(name string, e *effects) {
	if d.nonce != nil && d.accepted == "" && (d.suspicion == "" || d.suspicion == RetiredKey) {
		d.suspicion = UnprovenFlood
		e.changed(name)
	}
}

// ErrWait is the answer to a session that may take over soon.
var ErrWait = errors.New("another session of the device was heard a moment ago")

// isStray reports whether a session is not the device, as far as can be told: it
// was found to be a copy, or is not the lead. A session of a device that restarted is one
// until it has proven itself.
func (d *device) isStray(session string) bool {
	return d.isQuarantined(session) || d.hasLead() && !d.isLead(session)
}

// Report decides about any message but a snapshot request: nil, or a
// *wire.Refusal. Only a session that has proven itself may report and fetch:
// whoever has a copy of the device's key can connect.
func (r *Roster) Report(name, session string) (err error) {
	known := r.update(name, func(d *device, e *effects) {
		now := r.now()
		var changed bool
		if changed, err = d.report(session, now, e); changed {
			e.changed(name)
		}
		if err == nil {
			d.hear(name, now, e)
		}
	})
	if !known {
		return unproven()
	}
	return err
}

func unproven() *wire.Refusal {
	return &wire.Refusal{Code: wire.RefusedSession, Message: "this session has not proven itself: fetch a snapshot"}
}

func (d *device) report(session string, now time.Time, e *effects) (changed bool, err error) {
	d.speaks(session)
	switch {
	case d.isQuarantined(session):
		return false, Quarantine()
	case d.current.Session == "":
		return false, unproven()
	case d.current.Session == session:
		d.heard = now
		return false, nil
	case d.isThere(now):
		claimant, connected := d.claimant(session, "", now)
		if !connected { // a name that somebody made up, and who is behind it cannot be told
			claimant = Claimant{}
		}
		if changed, err = d.contest(claimant, now, e); connected && !errors.Is(err, ErrWait) {
			return changed, err
		}
	}
	return changed, &wire.Refusal{Code: wire.RefusedSession, Message: "another session of this device took over: fetch a snapshot"}
}

// isThere reports whether the current session has a connection and was heard a
// moment ago.
func (d *device) isThere(now time.Time) bool { return now.Sub(d.heard) < Grace && d.isConnected() }

func (d *device) isConnected() bool {
	_, connected := d.proof(d.current.Session)
	return connected
}

// claimant is what is known of a session, and whether that has a connection.
func (d *device) claimant(session, hardware string, now time.Time) (c Claimant, connected bool) {
	proof, connected := d.proof(session)
	return Claimant{Session: session, Label: wire.SessionLabel(session), Hardware: hardware, Proof: proof, heard: now}, connected
}

// Snapshot decides about a snapshot request. It returns a nonce for the device to
// keep, or "", and nil, ErrWait or a *wire.Refusal. With nil the session has proven
// itself, and its connections are the device's. One whose key is refused for good by now
// proves nothing: its connection is about to end.
func (r *Roster) Snapshot(name, session string, claim Claim) (offer string, err error) {
	if shown, connected := r.Proof(name, session); connected && r.revoked.Has(shown.Key) {
		return "", ErrWait
	}
	known := r.update(name, func(d *device, e *effects) {
		now := r.now()
		var s step
		previous := d.current.Session
		if s, err = d.snapshot(session, claim, now, e); s.changed {
			e.changed(name)
		} else if s.shown {
			e.shown = name
		}
		if err != nil {
			return
		}
		offer = s.offer
		if previous != session {
			d.dropSession(previous, e)
		}
		if s.proven {
			d.use(d.current.Proof, e)
			e.changed(name)
		}
		d.hear(name, now, e)
	})
	if !known {
		return "", ErrWait
	}
	return offer, err
}

// Claim is what a snapshot request says of the machine that sends it.
type Claim struct {
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
	// shown: the device has the nonce that it was given last, and nothing else is new.
	shown bool
	// proven: the current session connects with another key than before.
	proven bool
}

func (d *device) snapshot(session string, claim Claim, now time.Time, e *effects) (step, error) {
	d.speaks(session)
	claimant, connected := d.claimant(session, claim.Hardware, now)
	if !connected {
		return step{}, ErrWait // it will ask again over the next one
	}
	claimant.Capabilities = claim.Capabilities
	switch {
	case d.isQuarantined(session):
		return step{changed: d.hearAgain(claimant)}, Quarantine()
	case d.accepted != "":
		return d.readmit(claimant, claim, now)
	case d.current.Session != "" && d.current.Session != session && d.isThere(now):
		changed, err := d.contest(claimant, now, e)
		return step{changed: changed}, err
	}
	return d.admit(claimant, claim, now)
}

// readmit decides about a session while the one that an operator accepted has
// not come back. With that one nonces begin anew: its own may be old.
func (d *sessions) readmit(c Claimant, claim Claim, now time.Time) (step, error) {
	if c.Label != d.accepted {
		return step{changed: true}, d.quarantine(c, NotAccepted)
	}
	d.accepted, d.nonce = "", nil
	return d.admit(c, claim, now)
}

// admit makes a session the current one, unless its nonce is that of a copy.
func (d *sessions) admit(c Claimant, claim Claim, now time.Time) (s step, err error) {
	next, changed, stale := d.nonce.show(hash(claim.Nonce), claim.Epoch)
	if stale {
		return step{changed: true}, d.quarantine(c, StaleNonce)
	}
	if changed {
		d.offer, d.stored = "", false
		s.shown = d.nonce != nil && d.nonce.Epoch == claim.Epoch
	}
	if next.due(now) && (d.offer == "" || now.Sub(next.IssuedAt) >= rotation) {
		d.offer, d.stored = rand.Text(), false
		next, changed = next.issue(hash(d.offer), now), true
		s.shown = false
	}
	if changed {
		d.nonce = &next
	}
	if d.current.Session != c.Session || d.current.Proof.Key != c.Proof.Key || !d.current.Proof.Expires.Equal(c.Proof.Expires) {
		s.proven = true
	}
	c.Current = true
	if d.current.Session != c.Session {
		d.contender = contender{}
	}
	d.current, d.heard, d.proven = c, now, c.Label
	if d.stored {
		s.offer = d.offer
	}
	s.changed = d.vindicate(c.Session) || changed && !s.shown
	return s, nil
}

// contest is about a session that comes while the current one is there. It
// waits; if the current one is heard meanwhile, it is a copy. So is one that was
// followed by the next: a copy may take a new name each time it asks.
func (d *device) contest(c Claimant, now time.Time, e *effects) (changed bool, err error) {
	both := !d.contender.since.IsZero() && d.heard.After(d.contender.since)
	switch {
	case d.contender.Session == c.Session && both:
		d.contender = contender{}
		return true, d.quarantine(c, TwoSessions)
	case d.contender.Session == c.Session && !d.contender.since.IsZero():
		return false, ErrWait
	case both:
		d.dropSession(d.contender.Session, e) // it is not the one that asks, and is told when it comes back
		_ = d.quarantine(d.contender.Claimant, TwoSessions)
	}
	d.contender = contender{c, now}
	return both, ErrWait
}

func (d *sessions) quarantine(c Claimant, why Suspicion) error {
	if c.Session != "" {
		d.setAside(c)
	}
	d.suspicion = why
	return Quarantine()
}

// setAside puts a session among those that are no device, once, and nowhere else.
func (d *sessions) setAside(c Claimant) {
	c.Current = false
	if d.current.Session == c.Session {
		d.current = Claimant{}
	}
	if d.proven == c.Label {
		d.proven = ""
	}
	if d.contender.Session == c.Session {
		d.contender = contender{}
	}
	d.quarantined = slices.DeleteFunc(d.quarantined, func(q Claimant) bool { return q.Session == c.Session })
	d.quarantined = append(d.quarantined, c)
	if len(d.quarantined) > maxQuarantined {
		last := byTurns(d.quarantined)[maxQuarantined]
		d.quarantined = slices.DeleteFunc(d.quarantined, func(q Claimant) bool { return q.Session == last.Session })
	}
}

func (d *sessions) isQuarantined(session string) bool {
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
