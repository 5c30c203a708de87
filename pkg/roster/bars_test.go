package roster_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/roster"
)

// barred reports whether a session of a device may not connect. A connection that it
// makes to find out ends at once.
func (r *rostertest) barred(t *testing.T, device, session string) bool {
	t.Helper()
	r.probes++
	id := 1<<40 + uint64(r.probes)
	_, err := r.Connected(device, roster.Connection{ID: id, Session: session})
	r.Disconnected(id)
	if err != nil && !errors.Is(err, roster.ErrBarred) {
		t.Fatal(err)
	}
	return err != nil
}

// lead connects a session of a device, and lets it prove that it is the device.
func (r *rostertest) lead(t *testing.T, device, session string, id uint64) {
	t.Helper()
	if _, err := r.Connected(device, roster.Connection{ID: id, Session: session, Proof: roster.Proof{Key: "k1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Snapshot(device, session, roster.Claim{Epoch: "e1"}); err != nil {
		t.Fatal(err)
	}
}

func TestBarsEnd(t *testing.T) {
	t.Parallel()
	r := newRoster()
	for _, name := range []string{"edge-1", "edge-2", "edge-3"} {
		r.Bind(name, roster.Keys{Current: "k1"})
	}
	r.lead(t, "edge-3", "good", 1)
	r.Bar("edge-1")
	r.BarStrays("edge-3")
	r.pass(roster.BarTime - time.Second)
	if !r.barred(t, "edge-1", "good") || r.barred(t, "edge-2", "any") {
		t.Error("the device is not barred, or another is")
	}
	if r.barred(t, "edge-3", "good") || !r.barred(t, "edge-3", "other") {
		t.Error("of a device that may connect with one session, that is barred, or another is not")
	}
	r.Bar("edge-3")
	r.BarStrays("edge-3") // weakens nothing
	r.pass(2 * time.Second)
	if r.barred(t, "edge-1", "good") || !r.barred(t, "edge-3", "good") {
		t.Error("the device is barred for too long, or not all of one that was barred in part")
	}
	r.pass(roster.BarTime)
	if r.barred(t, "edge-1", "other") || r.barred(t, "edge-3", "other") {
		t.Error("the device is still barred")
	}
}

func TestBarredSession(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	r.lead(t, "edge-1", "good", 1)
	for i := range 1000 { // of which a copy makes up as many as it likes
		r.BarSession("edge-1", fmt.Sprint("made up ", i))
	}
	r.BarSession("edge-1", "other")
	r.BarSession("nobody", "other")
	if !r.barred(t, "edge-1", "other") || r.barred(t, "edge-1", "good") || r.barred(t, "edge-1", "made up 0") {
		t.Error("another session is barred than the last ones that were")
	}
	r.pass(roster.BarTime + time.Second)
	if r.barred(t, "edge-1", "other") {
		t.Error("the session is still barred")
	}
}
