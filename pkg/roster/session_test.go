package roster_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	device = "edge-1"
	epoch  = "e1"
	first  = "00000000000000a1"
	second = "00000000000000b2"
	third  = "00000000000000c3"
)

// rig is a roster with one device, and what it asks of the outside.
type rig struct {
	*rostertest
	t *testing.T
	// open are the connections of the device's sessions, keys what they show.
	open map[string]uint64
	keys map[string]string
	next uint64
	// proven are the keys with which the device has proven itself.
	proven []string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{rostertest: newRoster(), t: t, open: map[string]uint64{}, keys: map[string]string{}}
	r.Bind(device, roster.Keys{Current: "k1"})
	return r
}

// connect opens a connection of a session, and closes the one that it has.
func (r *rig) connect(session string) {
	r.t.Helper()
	r.disconnect(session)
	r.next++
	_, err := r.Connected(device, roster.Connection{ID: r.next, Session: session, Proof: roster.Proof{Key: cmp.Or(r.keys[session], "k1"), Address: "10.0.0.1:1"}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.open[session] = r.next
}

func (r *rig) disconnect(session string) {
	r.Disconnected(r.open[session])
	delete(r.open, session)
}

// retired lets a session show a key that a renewal replaced.
func (r *rig) retired(session string, p roster.Proof) {
	r.t.Helper()
	r.renewed[p.Key] = true
	if err := r.Admit(device, session, p); !errors.Is(err, roster.ErrRetired) {
		r.t.Fatalf("a key that was replaced: error is %v", err)
	}
}

// shows sends a snapshot request over a connection, and closes that afterwards if
// it was made for it alone.
func (r *rig) shows(id, nonce, epoch string) (offer string, err error) {
	if _, connected := r.open[id]; !connected {
		r.connect(id)
		defer r.disconnect(id)
	}
	before, _ := r.Used(device)
	offer, err = r.Snapshot(device, id, roster.Claim{Nonce: nonce, Hardware: "board of " + id, Epoch: epoch})
	if used, _ := r.Used(device); used != before {
		r.proven = append(r.proven, used)
	}
	return offer, err
}

func (r *rig) nonce() *roster.Nonce { return r.Record(device).Nonce }

func (r *rig) suspicion() roster.Suspicion { return r.Record(device).Suspicion }

// store is what the device controller does when the table changed.
func (r *rig) store() { r.Stored(device, r.nonce()) }

// ask sends a snapshot request and wants it to be answered.
func (r *rig) ask(session, nonce string) (offer string) {
	r.t.Helper()
	offer, err := r.shows(session, nonce, epoch)
	if err != nil {
		r.t.Fatalf("session %s: %v", session, err)
	}
	return offer
}

// refused wants a snapshot request to be refused with a code.
func (r *rig) refused(session, nonce string, code wire.RefusalCode) {
	r.t.Helper()
	_, err := r.shows(session, nonce, epoch)
	if refusal, ok := errors.AsType[*wire.Refusal](err); !ok || refusal.Code != code {
		r.t.Fatalf("session %s: error is %v, want %s", session, err, code)
	}
}

// report sends a report and wants it to be refused with a code, or taken.
func (r *rig) report(session string, code wire.RefusalCode) {
	r.t.Helper()
	err := r.Report(device, session)
	refusal, ok := errors.AsType[*wire.Refusal](err)
	if code == "" && err != nil || code != "" && (!ok || refusal.Code != code) {
		r.t.Fatalf("report of session %s: error is %v, want %q", session, err, code)
	}
}

// settled makes first the current session, with a nonce on its disk.
func (r *rig) settled() (nonce string) {
	r.t.Helper()
	r.connect(first)
	r.ask(first, "")
	r.store()
	nonce = r.ask(first, "")
	if nonce == "" {
		r.t.Fatal("the device is not given a nonce")
	}
	if offer := r.ask(first, nonce); offer != "" {
		r.t.Fatal("the device is given a second nonce")
	}
	r.store()
	return nonce
}

func TestNonceIsGivenOnceItIsStored(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 3 {
		if offer := r.ask(first, ""); offer != "" {
			t.Fatal("a nonce is given that is not stored: after a crash the device would be its own copy")
		}
	}
	r.store()
	one := r.ask(first, "")
	if again := r.ask(first, ""); one == "" || again != one {
		t.Errorf("a device that lost power before it kept the nonce %q is given %q", one, again)
	}
	n := r.nonce()
	if n.Shown != "" || len(n.Issued) != 1 || n.Issued[0] == one {
		t.Errorf("stored is %+v, want the hash of one nonce", n)
	}
	r.connect(first)
	r.ask(first, "")
	changes := r.changed[device]
	r.ask(first, one)
	if n := r.nonce(); n.Shown == "" || len(n.Issued) != 0 {
		t.Errorf("stored is %+v, want the one that was shown", n)
	}
	if r.shown != 1 || r.changed[device] != changes {
		t.Errorf("that the device has its nonce is told %d times as what can wait, and %d times as what cannot", r.shown, r.changed[device]-changes)
	}
	if r.ask(first, one); r.shown != 1 {
		t.Errorf("it is told %d times", r.shown)
	}
}

func TestNonceChangesDaily(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	changes := r.changed[device]
	for range 23 {
		r.now = r.now.Add(time.Hour)
		if r.ask(first, nonce) != "" || r.changed[device] != changes {
			t.Fatal("the nonce changes more often than once a day")
		}
	}
	r.now = r.now.Add(time.Hour)
	r.ask(first, nonce)
	r.store()
	next := r.ask(first, nonce)
	if next == "" || next == nonce {
		t.Fatalf("after a day the nonce is %q", next)
	}
	// A power cut between issue and persist is no clone.
	if again := r.ask(first, nonce); again != next {
		t.Errorf("a device that lost power is given %q, want %q", again, next)
	}
	r.ask(first, next)
	r.disconnect(first)
	r.refused(second, nonce, wire.RefusedQuarantined)
}

func TestNonceSurvivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	before := newRig(t)
	nonce := before.settled()
	before.now = before.now.Add(25 * time.Hour)
	before.ask(first, nonce)
	before.store()
	given := before.ask(first, nonce)

	for name, tc := range map[string]struct {
		shows string
		good  bool
	}{"the one before": {nonce, true}, "the one given": {given, true}, "another": {"x", false}, "none": {"", false}} {
		r := newRig(t)
		r.Load(device, roster.Record{Nonce: before.nonce()})
		if _, err := r.shows(second, tc.shows, epoch); (err == nil) != tc.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewEpochResetsNonces(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.settled()
	if _, err := r.shows(first, "from before the restore", "e2"); err != nil {
		t.Error(err)
	}
}

// Where nonces begin anew, the device goes on with the one on its disk until it has the
// next: it asks at least twice, as that is given out once it is stored. From then on the
// old one is the sign of a copy, as is any other.
func TestNoncesBeginAnew(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		epoch string
		begin func(r *rig) (session, nonce string)
	}{
		"in a new epoch": {"e2", func(r *rig) (string, string) { return first, r.settled() }},
		"after a restart with a restored store": {"e2", func(r *rig) (string, string) {
			nonce := r.settled()
			record := r.Record(device)
			r.Reset(device)
			r.Load(device, record)
			return first, nonce
		}},
		"of a session that was accepted": {epoch, func(r *rig) (string, string) {
			r.settled()
			r.disconnect(first)
			r.refused(second, "an old one", wire.RefusedQuarantined)
			r.Accept(device, wire.SessionLabel(second))
			r.connect(second)
			return second, "an old one"
		}},
		"of a session that was accepted and has none": {epoch, func(r *rig) (string, string) {
			r.settled()
			r.disconnect(first)
			r.refused(second, "", wire.RefusedQuarantined)
			r.Accept(device, wire.SessionLabel(second))
			r.connect(second)
			return second, ""
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			session, nonce := tc.begin(r)
			asks := func(nonce string) (offer string) {
				t.Helper()
				offer, err := r.shows(session, nonce, tc.epoch)
				if err != nil {
					t.Fatalf("with nonce %q: %v, suspicion %q", nonce, err, r.suspicion())
				}
				r.store()
				r.pass(time.Second)
				return offer
			}
			asks(nonce)
			next := asks(nonce)
			if again := asks(nonce); next == "" || next == nonce || again != next { // a power cut
				t.Fatalf("the device is given nonce %q, then %q", next, again)
			}
			asks(next)
			if r.suspicion() != "" || r.Current(device) != session {
				t.Errorf("suspicion %q, current session %q", r.suspicion(), r.Current(device))
			}
			r.disconnect(session)
			if _, err := r.shows(third, nonce, tc.epoch); err == nil {
				t.Error("the old nonce is good for ever")
			}
		})
	}
}

func TestCopyIsQuarantinedAndTheDeviceGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	r.now = r.now.Add(time.Hour) // the device is off
	r.disconnect(first)
	r.connect(second)
	r.refused(second, "an old one", wire.RefusedQuarantined)
	if r.suspicion() == "" || r.Current(device) != first {
		t.Errorf("suspicion %q, current session %s", r.suspicion(), r.Current(device))
	}
	r.report(second, wire.RefusedQuarantined)
	r.refused(second, nonce, wire.RefusedQuarantined) // whatever it shows now
	r.connect(first)
	r.ask(first, nonce)
	r.report(first, "")

	r.Accept(device, wire.SessionLabel(second))
	if r.suspicion() != "" {
		t.Error("an operator's decision changes nothing")
	}
	r.ask(second, "an old one")
}

// A device that is switched off without a word comes back while its old
// connection still looks alive.
func TestTakeover(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	r.now = r.now.Add(10 * time.Second)
	for r.now.Sub(time.Unix(1_000_000, 0)) < roster.Grace {
		if _, err := r.shows(second, nonce, epoch); !errors.Is(err, roster.ErrWait) {
			t.Fatalf("during the grace: %v", err)
		}
		r.now = r.now.Add(2 * time.Second)
	}
	r.report(second, wire.RefusedSession)
	r.ask(second, nonce)
	if r.Current(device) != second {
		t.Error("the broker is not told")
	}
	r.report(second, "")
	r.report(first, wire.RefusedSession)
}

func TestTakeoverOfAClosedConnectionIsImmediate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	r.disconnect(first)
	r.ask(second, nonce)
	r.report(first, wire.RefusedSession) // still on its way when the connection ended
}

func TestTwoThatTalkAtTheSameTimeAreADeviceAndItsCopy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	if _, err := r.shows(second, nonce, epoch); !errors.Is(err, roster.ErrWait) {
		t.Fatal(err)
	}
	r.now = r.now.Add(30 * time.Second)
	r.report(first, "") // the device's heartbeat
	r.now = r.now.Add(time.Second)
	r.refused(second, nonce, wire.RefusedQuarantined)
	if r.suspicion() == "" {
		t.Error("nobody is told")
	}
	r.report(first, "")
	r.disconnect(first)
	r.ask(third, nonce) // the device, restarted
}

// What the device itself asks for meanwhile hides no copy.
func TestCopyIsFoundWhileTheDeviceAsks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	if _, err := r.shows(second, nonce, epoch); !errors.Is(err, roster.ErrWait) {
		t.Fatal(err)
	}
	r.pass(time.Second)
	r.ask(first, nonce)
	r.pass(time.Second)
	r.refused(second, nonce, wire.RefusedQuarantined)
}

// The device has still proven itself when another session is set aside, and has not when
// it is its own.
func TestSettingAsideAnotherTakesNoProof(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.settled()
	r.disconnect(first)
	r.refused(second, "an old one", wire.RefusedQuarantined)
	if !r.Stray(device, third) {
		t.Error("after a copy was set aside, any session may be the device")
	}
}

// A copy that never asks for a snapshot is found, too.
func TestReportsOfTwoAtTheSameTime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.settled()
	r.connect(second)
	changes := r.changed[device]
	r.report(second, wire.RefusedSession)
	r.now = r.now.Add(time.Second)
	r.report(second, wire.RefusedSession) // perhaps the device, restarted
	r.report(first, "")
	r.now = r.now.Add(time.Second)
	r.report(second, wire.RefusedQuarantined)
	if r.suspicion() == "" || r.changed[device] != changes+1 {
		t.Errorf("suspicion %q, told %d times", r.suspicion(), r.changed[device]-changes)
	}
	r.report(first, "")
}

// A copy that takes a new name each time it asks is found, too.
func TestCopyThatChangesItsName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	for i, id := range []string{second, third, second, third} {
		r.now = r.now.Add(time.Second)
		if _, err := r.shows(id, nonce, epoch); i < 1 && !errors.Is(err, roster.ErrWait) {
			t.Fatal(err)
		}
		r.now = r.now.Add(time.Second)
		r.report(first, "")
	}
	if r.suspicion() != roster.TwoSessions || r.Current(device) != first {
		t.Errorf("suspicion %q, current session %s", r.suspicion(), r.Current(device))
	}
	labels := map[string]bool{}
	for _, c := range r.Claimants(device) {
		if labels[c.Label] {
			t.Errorf("session %s is there twice", c.Label)
		}
		labels[c.Label] = true
	}
	// The control: a device that restarts again and again while its old connection
	// looks alive.
	again := newRig(t)
	nonce = again.settled()
	for _, id := range []string{second, third, "00000000000000d4"} {
		again.now = again.now.Add(10 * time.Second)
		if _, err := again.shows(id, nonce, epoch); !errors.Is(err, roster.ErrWait) {
			t.Fatal(err)
		}
	}
	again.now = again.now.Add(roster.Grace)
	again.ask(third, nonce)
	again.report(third, "")
	again.disconnect(third)
	again.ask("00000000000000d4", nonce)
	if again.suspicion() != "" {
		t.Errorf("a device that restarts is taken for its copy: %s", again.suspicion())
	}
}

// A session is set aside once, whatever it does before and afterwards, and is not the
// device meanwhile.
func TestSessionIsSetAsideOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		goes    func(r *rig, nonce string)
		current string
	}{
		"a contender that shows an old nonce once the device is gone": {func(r *rig, nonce string) {
			r.connect(second)
			if _, err := r.shows(second, "", epoch); !errors.Is(err, roster.ErrWait) {
				r.t.Fatal(err)
			}
			r.pass(time.Second)
			r.disconnect(first)
			r.refused(second, "", wire.RefusedQuarantined)
			r.pass(time.Second)
			r.connect(first)
			r.ask(first, nonce)
			r.pass(time.Second)
			r.report(first, "")
			r.pass(time.Second)
			if _, err := r.shows(third, "", epoch); !errors.Is(err, roster.ErrWait) { // the copy restarts
				r.t.Fatal(err)
			}
		}, first},
		"the current session, which shows an old nonce": {func(r *rig, _ string) {
			r.refused(first, "an old one", wire.RefusedQuarantined)
			r.report(first, wire.RefusedQuarantined)
		}, ""},
	} {
		r := newRig(t)
		tc.goes(r, r.settled())
		if r.Current(device) != tc.current {
			t.Errorf("%s: the current session is %q", name, r.Current(device))
		}
		var set []string
		for _, c := range r.Claimants(device) {
			if c.Session != tc.current {
				set = append(set, c.Session)
			}
		}
		if len(set) != 1 {
			t.Errorf("%s: set aside are %v", name, set)
		}
	}
}

// Whoever claims to be the device under many names, with hardware of as many, hides nobody
// from the operator who comes from elsewhere, or was heard since.
func TestDecoysHideNobody(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		address string
		asks    bool // again, afterwards
	}{"from elsewhere": {"198.51.100.1:1", false}, "from the same network, and heard since": {"192.0.2.9:1", true}} {
		r := newRig(t)
		r.settled()
		r.disconnect(first)
		claims := func(session, hardware, address string) {
			t.Helper()
			r.next++
			if _, err := r.Connected(device, roster.Connection{ID: r.next, Session: session, Proof: roster.Proof{Key: "k1", Address: address}}); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Snapshot(device, session, roster.Claim{Nonce: "stale", Hardware: hardware, Epoch: epoch}); err == nil {
				t.Fatal("an old nonce is good")
			}
			r.Disconnected(r.next)
			r.pass(time.Second)
		}
		claims(second, "board", tc.address)
		for i := range 100 {
			claims(fmt.Sprintf("d%015x", i), fmt.Sprint("board ", i), "192.0.2.9:1")
		}
		if tc.asks {
			changes := r.changed[device]
			claims(second, "board", tc.address)
			if r.changed[device] != changes+2 { // and that it left
				t.Error("nobody is told that it was heard")
			}
		}
		at := slices.IndexFunc(r.Claimants(device), func(c roster.Claimant) bool { return c.Session == second })
		if at < 0 || at > 3 {
			t.Errorf("%s: it is claimant %d of %d", name, at+1, len(r.Claimants(device)))
		}
	}
}

// A name without a connection is nobody's: a copy could fill the list with them. That
// somebody makes names up is noticed.
func TestMadeUpSessionsClaimNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.settled()
	for i := range 100 {
		id := fmt.Sprintf("%016x", i)
		for range 2 {
			r.report(id, wire.RefusedSession)
			r.now = r.now.Add(time.Millisecond)
			r.report(first, "")
		}
	}
	if n := len(r.Claimants(device)); n != 1 {
		t.Errorf("%d sessions claim to be the device", n)
	}
	if r.suspicion() != roster.TwoSessions {
		t.Errorf("suspicion %q", r.suspicion())
	}
}

// A key that a renewal replaced raises the suspicion once, until and after an
// operator decides.
func TestRetiredKeyRaisesTheSuspicion(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	changes := r.changed[device]
	for range 10 {
		r.retired(second, roster.Proof{Key: "k0", Address: "10.0.0.2:1"})
		r.retired("", roster.Proof{Key: "k0", Address: "10.0.0.2"})
		r.retired(third, roster.Proof{Key: "k00"})
	}
	if r.suspicion() != roster.RetiredKey || r.Suspected(device) || r.changed[device] != changes+1 {
		t.Errorf("suspicion %q, told %d times", r.suspicion(), r.changed[device]-changes)
	}
	claimants := r.Claimants(device)
	if len(claimants) != 2 || !claimants[0].Current || claimants[1].Proof.Key != "k0" || claimants[1].Label != wire.SessionLabel(second) {
		t.Errorf("claimants %+v", claimants)
	}
	r.report(first, "")
	r.ask(first, nonce)
	if r.suspicion() != roster.RetiredKey {
		t.Error("the suspicion ends because the device goes on")
	}
	r.Accept(device, wire.SessionLabel(first))
	r.retired(second, roster.Proof{Key: "k0"})
	if r.suspicion() != "" || len(r.Claimants(device)) != 1 {
		t.Errorf("what an operator has decided is asked again: %s", r.suspicion())
	}
	r.retired(second, roster.Proof{Key: "k1"})
	if r.suspicion() != roster.RetiredKey {
		t.Error("another key says nothing")
	}
	// After a restart of the server the suspicion is there, and who shows it is named.
	again := newRig(t)
	again.Load(device, r.Record(device))
	again.retired(second, roster.Proof{Key: "k1"})
	if c := again.Claimants(device); len(c) != 1 || c[0].Proof.Key != "k1" || again.changed[device] != 1 {
		t.Errorf("claimants %+v", c)
	}
}

// A device tries its previous key as well until it knows that the next one counts.
func TestDeviceThatTriesItsRetiredKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	r.retired(first, roster.Proof{Key: "k0"}) // the session that has proven itself
	if r.suspicion() != "" {
		t.Error("the device is its own copy")
	}
	r.disconnect(first)
	r.retired(second, roster.Proof{Key: "k0"}) // restarted, and refused for a moment
	r.retired(second, roster.Proof{Key: "k0"})
	r.ask(second, nonce)
	if r.suspicion() != "" {
		t.Errorf("suspicion %q of a device that was refused for a moment", r.suspicion())
	}
	r.retired(third, roster.Proof{Key: "k0"}) // a copy with that key
	if r.suspicion() != roster.RetiredKey {
		t.Error("the key says nothing any more")
	}
}

func TestStray(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if r.Stray(device, first) {
		t.Error("a session of a device that nobody knows is a stray")
	}
	r.settled()
	if r.Stray(device, first) || !r.Stray(device, second) || !r.Stray(device, "") {
		t.Error("the current session is a stray, or another is not")
	}
	r.disconnect(first) // the device was switched off, or has lost its network
	if r.Stray(device, first) || !r.Stray(device, second) {
		t.Error("the current session is a stray without a connection, or another is not before it has proven itself")
	}
	again := newRig(t) // the server restarts
	again.Load(device, r.Record(device))
	if again.Stray(device, first) || !again.Stray(device, second) {
		t.Error("after a restart the device's session is a stray, or another is not")
	}
	r.refused(second, "an old one", wire.RefusedQuarantined)
	if !r.Stray(device, second) || r.Stray(device, first) {
		t.Error("a copy is no stray, or the current session is")
	}
	r.Accept(device, wire.SessionLabel(second))
	if r.Stray(device, second) || !r.Stray(device, first) {
		t.Error("the accepted session is a stray, or the other is not")
	}
}

// Nobody gets anything before it has proven itself, whoever comes first: after a
// restart of the server that may be a copy.
func TestReportsNeedAProof(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	again := newRig(t)
	again.Load(device, r.Record(device))
	again.connect(first)
	again.connect(second)
	again.report(second, wire.RefusedSession)
	again.report(first, wire.RefusedSession)
	again.refused(second, "an old one", wire.RefusedQuarantined)
	again.report(second, wire.RefusedQuarantined)
	again.ask(first, nonce)
	again.report(first, "")
}

// A next key counts from the first accepted request over it.
func TestKeyIsProvenByASnapshot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	r.keys[second] = "k2"
	r.connect(second)
	r.report(second, wire.RefusedSession)
	r.now = r.now.Add(time.Second)
	r.report(first, "")
	r.refused(second, nonce, wire.RefusedQuarantined) // both talk
	if diff := gocmp.Diff([]string{"k1"}, r.proven); diff != "" {
		t.Errorf("proven (-want +got):\n%s", diff)
	}
	r.keys[first] = "k3" // the device renewed its certificate and connected anew
	r.connect(first)
	r.ask(first, nonce)
	r.ask(first, nonce)
	if diff := gocmp.Diff([]string{"k1", "k3"}, r.proven); diff != "" {
		t.Errorf("proven (-want +got):\n%s", diff)
	}
}

// A request whose connection has ended proves nothing.
func TestRequestWithoutAConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := r.Snapshot(device, first, roster.Claim{Epoch: epoch}); !errors.Is(err, roster.ErrWait) || r.Current(device) != "" {
		t.Errorf("error %v, current session %q", err, r.Current(device))
	}
}

// The machine of a key that is refused for good proves nothing until its connection ends,
// and what it still reports does not count: another takes its place.
func TestRefusedKeyProvesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	r.revoked["k1"] = true
	r.Reset(device)
	r.Drop(device)
	if _, err := r.shows(first, nonce, epoch); !errors.Is(err, roster.ErrWait) {
		t.Errorf("it is answered %v", err)
	}
	r.report(first, wire.RefusedSession)
	r.Bind(device, roster.Keys{Current: "k2"})
	r.keys[second] = "k2"
	r.ask(second, "")
}

// The operator's decision is for one session: no other gets in by it.
func TestAcceptedSessionAloneIsTheDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled() // of the copy, which talked first
	r.disconnect(first)
	r.refused(second, "an old one", wire.RefusedQuarantined)
	claimants := r.Claimants(device)
	if len(claimants) != 2 || !claimants[0].Current || claimants[1].Current || claimants[1].Hardware != "board of "+second || claimants[1].Label != wire.SessionLabel(second) {
		t.Fatalf("claimants %+v", claimants)
	}
	r.connect(first)
	r.Accept(device, wire.SessionLabel(second))
	r.report(first, wire.RefusedQuarantined)
	r.refused(first, nonce, wire.RefusedQuarantined)
	r.refused(third, nonce, wire.RefusedQuarantined) // the copy, restarted
	if r.suspicion() != roster.NotAccepted {
		t.Errorf("suspicion %q", r.suspicion())
	}
	again := newRig(t) // the decision lasts
	again.Load(device, roster.Record{Nonce: r.nonce(), Accepted: r.Record(device).Accepted})
	again.refused(third, nonce, wire.RefusedQuarantined)
	again.ask(second, "an old one")
	again.report(second, "")
	again.report(third, wire.RefusedQuarantined)
	if again.Record(device).Accepted != "" || again.Current(device) != second {
		t.Errorf("record %+v, current session %q", again.Record(device), again.Current(device))
	}
}

func TestAcceptingTheCurrentSession(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nonce := r.settled()
	r.disconnect(first)
	r.refused(second, "an old one", wire.RefusedQuarantined)
	r.connect(first)
	r.Accept(device, wire.SessionLabel(first))
	r.report(first, "")
	r.ask(first, nonce)
	r.refused(second, "an old one", wire.RefusedQuarantined) // it asks again: the operator knows
	if r.suspicion() != "" || r.Suspected(device) {
		t.Errorf("suspicion %q", r.suspicion())
	}
	r.Forget(device)
	if r.Current(device) != "" || r.Claimants(device) != nil {
		t.Error("something is left of a device that is gone")
	}
}

// Of those who claim to be the device, one from each machine comes before any second one.
func TestOneClaimantOfEachMachineIsFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.settled()
	r.disconnect(first)
	claims := func(session, address string) {
		t.Helper()
		r.next++
		if _, err := r.Connected(device, roster.Connection{ID: r.next, Session: session, Proof: roster.Proof{Key: "k1", Address: address}}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Snapshot(device, session, roster.Claim{Nonce: "stale", Hardware: "board", Epoch: epoch}); err == nil {
			t.Fatal("an old nonce is good")
		}
		r.Disconnected(r.next)
		r.pass(time.Second)
	}
	claims(second, "198.51.100.1:1")
	names := []string{"d000000000000001", "d000000000000002", "d000000000000003"}
	for _, name := range names {
		claims(name, "192.0.2.9:1")
	}
	order := func() (sessions []string) {
		for _, c := range r.Claimants(device) {
			sessions = append(sessions, c.Session)
		}
		return sessions
	}
	want := []string{first, names[2], second, names[1], names[0]}
	if got := order(); !slices.Equal(got, want) {
		t.Errorf("claimants are %v, want %v", got, want)
	}
	// One that asks again is there once, and people see it when it was silent for a while.
	told := func() int {
		before := r.changed[device]
		claims(names[0], "192.0.2.9:1")
		return r.changed[device] - before
	}
	often := told()
	r.pass(2 * time.Minute)
	if seldom := told(); seldom <= often {
		t.Errorf("people are told %d times of one that asks at once, and %d times of one that was silent", often, seldom)
	}
	if got, want := order(), []string{first, names[0], second, names[2], names[1]}; !slices.Equal(got, want) {
		t.Errorf("claimants are %v, want %v", got, want)
	}
}
