package roster_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/roster"
)

// hears lets a message of a device arrive.
func (r *rostertest) hears(t *testing.T, device string) {
	t.Helper()
	if err := r.Report(device, device); err != nil {
		t.Fatal(err)
	}
}

// there connects devices, which prove themselves. Their sessions have their names.
func (r *rostertest) there(t *testing.T, devices ...string) {
	t.Helper()
	for i, name := range devices {
		r.Bind(name, roster.Keys{Current: "k1"})
		r.lead(t, name, name, uint64(100+i))
	}
	clear(r.changed)
}

func (r *rostertest) wantChanges(t *testing.T, want map[string]int) {
	t.Helper()
	if diff := cmp.Diff(want, r.changed); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	clear(r.changed)
}

func TestDeviceIsPresentWhileItIsHeard(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	if _, err := r.Connected("edge-1", roster.Connection{ID: 1, Session: "edge-1"}); err != nil {
		t.Fatal(err)
	}
	if _, present, _ := r.Presence("edge-1"); present {
		t.Error("a connection alone counts")
	}
	r.wantChanges(t, map[string]int{})
	if _, err := r.Snapshot("edge-1", "edge-1", roster.Claim{Epoch: "e1"}); err != nil {
		t.Fatal(err)
	}
	clear(r.changed)
	for range 5 { // each in time
		r.hears(t, "edge-1")
		r.pass(roster.Silence - time.Second)
		if next := r.Sweep(); next != time.Second {
			t.Errorf("the next sweep is due in %s", next)
		}
	}
	r.wantChanges(t, map[string]int{})
	last, present, settled := r.Presence("edge-1")
	if !present || !settled || r.now.Sub(last) != roster.Silence-time.Second {
		t.Errorf("present %v, settled %v, last heard %s ago", present, settled, r.now.Sub(last))
	}
	r.pass(time.Second)
	if next := r.Sweep(); next != roster.Silence {
		t.Errorf("with nobody left the next sweep is due in %s", next)
	}
	if _, present, _ := r.Presence("edge-1"); present {
		t.Error("a silent device is present")
	}
	r.wantChanges(t, map[string]int{"edge-1": 1})
	r.Sweep()
	r.wantChanges(t, map[string]int{})
	r.hears(t, "edge-1")
	r.wantChanges(t, map[string]int{"edge-1": 1})
	r.Disconnected(1)
	r.wantChanges(t, map[string]int{"edge-1": 1})
	if _, present, _ := r.Presence("edge-1"); present {
		t.Error("a device without a connection is present")
	}
}

func TestSweepTakesTheSilentOnly(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.there(t, "edge-1", "edge-2")
	r.pass(30 * time.Second)
	r.hears(t, "edge-2")
	r.wantChanges(t, map[string]int{})
	r.pass(60 * time.Second)
	if next := r.Sweep(); next != 30*time.Second {
		t.Errorf("the next sweep is due in %s", next)
	}
	r.wantChanges(t, map[string]int{"edge-1": 1})
	if _, present, _ := r.Presence("edge-2"); !present {
		t.Error("a device that was heard in time is gone")
	}
}

// After a start nobody is known to be gone until they had the time to come back.
func TestAbsenceIsKnownAfterAWhile(t *testing.T) {
	t.Parallel()
	r := newRoster()
	for _, tc := range []struct {
		after   time.Duration
		settled bool
	}{{0, false}, {roster.Silence, false}, {time.Nanosecond, true}} {
		r.pass(tc.after)
		if _, present, settled := r.Presence("edge-1"); present || settled != tc.settled {
			t.Errorf("present %v, settled %v, want %v", present, settled, tc.settled)
		}
	}
}

// An agent that was refused as too old is known for it until the device is heard, and its status
// is written for the first refusal alone.
func TestAgentIsTooOldUntilTheDeviceIsHeard(t *testing.T) {
	t.Parallel()
	r := newRoster()
	if r.IsTooOld(device) {
		t.Error("a device that nobody knows is too old")
	}
	r.Bind(device, roster.Keys{Current: "k1"})
	before := r.changed[device]
	for range 3 {
		r.Outdated(device)
	}
	if changes := r.changed[device] - before; !r.IsTooOld(device) || changes != 1 {
		t.Errorf("too old: %v, after %d changes", r.IsTooOld(device), changes)
	}
	r.there(t, device)
	r.Outdated(device) // somebody else with its key
	if r.IsTooOld(device) {
		t.Error("a device that was heard is too old")
	}
}

// However often a device with an old agent comes, it is told of once an hour.
func TestOutdatedIsToldOnceAnHour(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	for range 3 {
		for range 10 {
			r.Outdated("edge-1")
			r.Outdated("nobody")
		}
		r.pass(time.Hour)
	}
	if diff := cmp.Diff([]string{"edge-1", "edge-1", "edge-1"}, r.outdated); diff != "" {
		t.Errorf("told of (-want +got):\n%s", diff)
	}
}
