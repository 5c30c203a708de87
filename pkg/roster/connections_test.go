package roster_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// connect connects a session of a device with a key.
func (r *rostertest) connect(t *testing.T, device string, id uint64, session, key string) (crowded bool) {
	t.Helper()
	crowded, err := r.Connected(device, roster.Connection{ID: id, Session: session, Proof: roster.Proof{Key: key, Expires: r.now.Add(time.Hour)}})
	if err != nil {
		t.Fatal(err)
	}
	return crowded
}

func (r *rostertest) wantDrops(t *testing.T, what string, want ...uint64) {
	t.Helper()
	got := r.drops()
	got = slices.Compact(slices.Sorted(slices.Values(got)))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: dropped (-want +got):\n%s", what, diff)
	}
}

// The oldest connections above two are dropped, but that of the current session last:
// a copy cannot drive the device out.
func TestSurplusConnections(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	if r.connect(t, "edge-1", 1, "a", "k1") || r.connect(t, "edge-1", 2, "b", "k1") {
		t.Error("two connections are a crowd")
	}
	r.wantDrops(t, "of two")
	if !r.connect(t, "edge-1", 3, "c", "k1") {
		t.Error("three connections are no crowd")
	}
	r.wantDrops(t, "of three", 1)
	r.Disconnected(1)
	if _, err := r.Snapshot("edge-1", "b", roster.Claim{Epoch: "e1"}); err != nil {
		t.Fatal(err)
	}
	r.connect(t, "edge-1", 4, "d", "k1")
	r.wantDrops(t, "beside the current session", 3)
	r.connect(t, "edge-1", 5, "e", "k1") // before the bus told of the end of 3
	r.wantDrops(t, "of four", 3, 4)
	if r.Count() != 1 {
		t.Errorf("%d devices are connected", r.Count())
	}
}

// However many connections the current session has, there is a place for another that has
// yet to speak: it may be the device, and the current one its copy.
func TestPlaceForASessionThatHasNotSpoken(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	r.lead(t, "edge-1", first, 1)
	for id := range uint64(3) {
		r.connect(t, "edge-1", 2+id, first, "k1")
	}
	r.wantDrops(t, "of one session", 1, 2) // its own older ones; the end of 1 is not told yet
	r.Disconnected(1)
	r.Disconnected(2)
	r.connect(t, "edge-1", 5, second, "k1")
	r.wantDrops(t, "of the current session and another")
	_, _ = r.Snapshot("edge-1", second, roster.Claim{Epoch: epoch})
	r.connect(t, "edge-1", 6, third, "k1")
	r.wantDrops(t, "of three sessions", 5)
	r.Disconnected(5)
	r.connect(t, "edge-1", 7, first, "k1")
	r.wantDrops(t, "beside one that has not spoken", 3)
}

// Without a current session, those that have spoken make room first.
func TestThoseThatHaveSpokenMakeRoom(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	r.connect(t, "edge-1", 1, first, "k1")
	r.connect(t, "edge-1", 2, second, "k1")
	_ = r.Report("edge-1", second)
	r.connect(t, "edge-1", 3, third, "k1")
	r.wantDrops(t, "of three sessions", 2)
}

// A crowd makes room for itself: a session that comes from elsewhere keeps its place until
// it has spoken. Either way the crowd is noticed.
func TestCrowd(t *testing.T) {
	t.Parallel()
	for copied, near := range map[string]bool{"192.0.2.9": false, "198.51.100.1": true} {
		r := newRoster()
		r.Bind("edge-1", roster.Keys{Current: "k1"})
		r.lead(t, "edge-1", first, 1)
		r.Disconnected(1)
		comes := func(id uint64, session, address string) {
			t.Helper()
			if _, err := r.Connected("edge-1", roster.Connection{ID: id, Session: session, Proof: roster.Proof{Key: "k1", Address: fmt.Sprint(address, ":", id)}}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range uint64(100) { // one whose network comes and goes
			comes(1000+i, second, "198.51.100.1")
		}
		if r.Record("edge-1").Suspicion != "" {
			t.Error("one session is a crowd")
		}
		for i := range uint64(100) {
			r.Disconnected(1000 + i)
		}
		for i := range uint64(4) {
			comes(10+i, fmt.Sprintf("%016x", i), copied)
		}
		r.drops()
		comes(20, second, "198.51.100.1")
		for i := range uint64(20) {
			comes(30+i, fmt.Sprintf("%016x", 100+i), copied)
			for _, id := range r.drops() {
				if id == 20 && !near {
					t.Fatalf("after %d connections of a crowd the device's is dropped", i+1)
				}
				if id != 20 {
					r.Disconnected(id)
				}
			}
		}
		if is := r.Record("edge-1").Suspicion == roster.UnprovenFlood; !is {
			t.Errorf("from %s: the crowd is not noticed", copied)
		}
	}
}

// The operator's decision ends the connections of the session that was the current one,
// and the accepted session has a place from then on, at once.
func TestAcceptedSessionHasAPlace(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	r.lead(t, "edge-1", first, 1) // the copy, which took over
	r.connect(t, "edge-1", 2, first, "k1")
	r.connect(t, "edge-1", 3, second, "k1")
	_, _ = r.Snapshot("edge-1", second, roster.Claim{Epoch: epoch})
	r.pass(time.Second)
	_ = r.Report("edge-1", first)
	r.pass(time.Second)
	if _, err := r.Snapshot("edge-1", second, roster.Claim{Epoch: epoch}); err == nil {
		t.Fatal("two that talk are one device")
	}
	r.BarSession("edge-1", second)
	r.Disconnected(3)
	r.drops()
	r.Accept("edge-1", wire.SessionLabel(second))
	r.wantDrops(t, "by the decision", 1, 2)
	r.connect(t, "edge-1", 4, second, "k1")
	r.wantDrops(t, "for the accepted session", 1) // the bus has yet to tell of its end
	for id := range uint64(4) {
		r.connect(t, "edge-1", 5+id, fmt.Sprintf("%016x", id), "k1")
	}
	r.wantDrops(t, "of the others", 1, 2, 5, 6, 7)
	r.pass(3 * time.Minute)
	if names := r.DropUnproven(2 * time.Minute); len(names) != 1 {
		t.Errorf("%v are dropped, which have not proven themselves", names)
	}
	r.wantDrops(t, "unproven", 1, 2, 4, 5, 6, 7, 8)
}

func TestConnectionIsOfOneSession(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	r.connect(t, "edge-1", 1, "a", "k1")
	if _, err := r.Connected("edge-1", roster.Connection{ID: 1, Session: "b"}); !errors.Is(err, roster.ErrSecondSession) {
		t.Errorf("a second session over one connection: %v", err)
	}
	if _, connected := r.Proof("edge-1", "b"); connected {
		t.Error("the second session has the connection")
	}
}

// A session that takes over ends the connections of the previous one, and no others.
func TestTakeoverEndsThePreviousConnections(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	r.lead(t, "edge-1", "a", 1)
	r.wantDrops(t, "of the first session")
	r.connect(t, "edge-1", 2, "b", "k1")
	r.pass(roster.Grace)
	if _, err := r.Snapshot("edge-1", "b", roster.Claim{Epoch: "e2"}); err != nil {
		t.Fatal(err)
	}
	r.wantDrops(t, "when another takes over", 1)
}

func TestDropsByKey(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1", Next: "k2"})
	r.connect(t, "edge-1", 1, "a", "k1")
	r.connect(t, "edge-1", 2, "b", "k2")
	r.DropKey("edge-1", "k1")
	r.wantDrops(t, "of one key", 1)
	r.DropOtherKeys("edge-1", "k1")
	r.wantDrops(t, "of all others", 2)
	r.Drop("edge-1")
	r.wantDrops(t, "all", 1, 2)
	r.Drop("nobody")
	r.wantDrops(t, "of nobody")
}

func TestExpiredAndUnprovenConnections(t *testing.T) {
	t.Parallel()
	r := newRoster()
	for _, name := range []string{"edge-1", "edge-2"} {
		r.Bind(name, roster.Keys{Current: "k1"})
	}
	r.connect(t, "edge-1", 1, "a", "k1")
	r.connect(t, "edge-2", 2, "b", "k1")
	if _, err := r.Snapshot("edge-1", "a", roster.Claim{Epoch: "e1"}); err != nil {
		t.Fatal(err)
	}
	if names := r.DropExpired(r.now.Add(time.Hour)); len(names) > 0 {
		t.Errorf("%v expire at the last moment of their certificates", names)
	}
	if names := r.DropExpired(r.now.Add(time.Hour + 1)); len(names) != 2 {
		t.Errorf("%v expire", names)
	}
	r.wantDrops(t, "expired", 1, 2)
	r.pass(time.Minute)
	if names := r.DropUnproven(time.Minute); len(names) > 0 {
		t.Errorf("%v are dropped within their time", names)
	}
	r.pass(1)
	if names := r.DropUnproven(time.Minute); !slices.Equal(names, []string{"edge-2"}) {
		t.Errorf("%v are dropped, which have not proven themselves", names)
	}
	r.wantDrops(t, "unproven", 2)
}

// Whose connection breaks the rules of the bus is barred: the device, or what is not
// its current session.
func TestMisusedConnections(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	r.lead(t, "edge-1", "a", 1)
	r.connect(t, "edge-1", 2, "b", "k1")
	if r.Misused(3) {
		t.Error("a connection of nobody is a device's")
	}
	r.wantDrops(t, "of nobody")
	if !r.Misused(2) || r.barred(t, "edge-1", "a") || !r.barred(t, "edge-1", "b") {
		t.Error("a stray is not barred, or the device is")
	}
	r.wantDrops(t, "the stray's", 2)
	r.Disconnected(2)
	if !r.Misused(1) || !r.barred(t, "edge-1", "a") {
		t.Error("the device is not barred")
	}
	r.wantDrops(t, "the device's", 1)
}

// Without a current session nobody can tell which is the copy: all are dropped, and
// may come back. One session alone is barred alone.
func TestStraysWithoutACurrentSession(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	r.connect(t, "edge-1", 1, "a", "k1")
	r.connect(t, "edge-1", 2, "b", "k1")
	r.BarStrays("edge-1")
	r.wantDrops(t, "all", 1, 2)
	if r.barred(t, "edge-1", "a") {
		t.Error("they may not come back")
	}
	r.drops()
	r.BarSession("edge-1", "b")
	r.wantDrops(t, "of one session", 2)
	r.Bar("edge-1")
	r.wantDrops(t, "of the device", 1, 2)
}

// The newest connection of a session counts, and the current session with its last
// one.
func TestProofIsOfTheNewestConnection(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1", Next: "k2"})
	r.connect(t, "edge-1", 1, "a", "k1")
	r.connect(t, "edge-1", 2, "a", "k2")
	if p, connected := r.Proof("edge-1", "a"); !connected || p.Key != "k2" {
		t.Errorf("proof %+v", p)
	}
	if _, err := r.Snapshot("edge-1", "a", roster.Claim{Epoch: "e1"}); err != nil {
		t.Fatal(err)
	}
	if key, expires := r.Used("edge-1"); key != "k2" || !expires.Equal(r.now.Add(time.Hour)) {
		t.Errorf("used is %s until %s", key, expires)
	}
	r.wantDrops(t, "of the previous key", 1)
}

// A device can be forgotten after it was let in and before its connection is added.
func TestForgottenDeviceDoesNotConnect(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind("edge-1", roster.Keys{Current: "k1"})
	r.Forget("edge-1")
	if _, err := r.Connected("edge-1", roster.Connection{ID: 1, Session: "a"}); !errors.Is(err, roster.ErrUnknown) {
		t.Errorf("a forgotten device connects: %v", err)
	}
	if n := r.Len(); n != 0 || len(r.Connections()) != 0 {
		t.Errorf("%d devices and %d connections are known", n, len(r.Connections()))
	}
}

// Those that are to be dropped already count: the network that most connections come from
// makes room only until it has no more than others.
func TestRoomIsMadeByTurns(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind(device, roster.Keys{Current: "k1"})
	r.lead(t, device, first, 1)
	r.Disconnected(1)
	for i, address := range []string{"198.51.100.1:1", "192.0.2.9:1", "192.0.2.9:2"} {
		session := []string{second, third, "d000000000000004"}[i]
		if _, err := r.Connected(device, roster.Connection{ID: uint64(2 + i), Session: session, Proof: roster.Proof{Key: "k1", Address: address}}); err != nil {
			t.Fatal(err)
		}
	}
	r.wantDrops(t, "of three others", 3)
	r.connect(t, device, 5, first, "k1")
	r.wantDrops(t, "of three others and the device", 2, 3)
}
