package roster_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// budgetOf returns messages a second, and how many at once.
func budgetOf(kind wire.Kind) (rate float64, burst int) {
	v := kind.Verb()
	return v.Rate, v.Burst
}

// take takes an empty message of a device's own session.
func (r *rostertest) take(device string, kind wire.Kind) roster.Verdict {
	return r.Take(device, device, kind, 0)
}

// isKick reports whether a message over all budgets was met, as a flood is: its
// sender is dropped, or was a moment ago.
func isKick(v roster.Verdict) bool { return v == roster.Ignore || v == roster.DroppedDevice }

// allowed is the most that a token bucket lets through in a time.
func allowed(rate float64, burst int, in time.Duration) float64 {
	const rounding = 1e-6
	return float64(burst) + rate*in.Seconds() + rounding
}

// Whatever a device does, no window of time brings more than the burst and
// what the rate adds, of what passes and of what is only refused.
func TestNoWindowExceedsTheBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.SampledFrom([]wire.Kind{wire.KindSnapshot, wire.KindInfo, wire.KindHeartbeat}).Draw(rt, "kind")
		rate, burst := budgetOf(kind)
		strikeRate, strikeBurst := roster.Strikes()
		pauses := rapid.SliceOfN(rapid.Int64Range(0, int64(5*time.Second)), 1, 20).Draw(rt, "pauses")
		volley := rapid.IntRange(1, 2*burst).Draw(rt, "volley")
		var passed, refused []time.Time
		r := newRoster()
		r.there(t, "edge-1")
		for _, pause := range pauses {
			r.pass(time.Duration(pause))
			for range volley {
				switch r.take("edge-1", kind) {
				case roster.Pass:
					passed = append(passed, r.now)
				case roster.Refuse:
					refused = append(refused, r.now)
				}
			}
		}
		checkWindows(rt, "passed", passed, rate, burst)
		checkWindows(rt, "refused", refused, strikeRate, strikeBurst)
	})
}

// A message that is too long costs as much as so many that are not.
func TestLongMessagesCostMore(t *testing.T) {
	t.Parallel()
	longest := wire.KindState.Verb().MaxRequest
	_, burst := budgetOf(wire.KindState)
	_, strikes := roster.Strikes()
	for _, tt := range []struct{ bytes, cost int }{{0, 1}, {1, 1}, {longest, 1}, {longest + 1, 2}, {2 * longest, 2}, {2*longest + 1, 3}, {wire.MaxReply, (wire.MaxReply + longest - 1) / longest}} {
		r := newRoster()
		r.there(t, "edge-1")
		for i := range burst/tt.cost + strikes/tt.cost + 3 {
			want := roster.Ignore
			switch {
			case i < burst/tt.cost:
				want = roster.Pass
			case i < burst/tt.cost+strikes/tt.cost:
				want = roster.Refuse
			case i == burst/tt.cost+strikes/tt.cost:
				want = roster.DroppedDevice
			}
			if got := r.Take("edge-1", "edge-1", wire.KindState, tt.bytes); got != want {
				t.Fatalf("message %d of %d bytes: %v, want %v", i, tt.bytes, got, want)
			}
		}
	}
}

func checkWindows(t *rapid.T, what string, at []time.Time, rate float64, burst int) {
	for i := range at {
		for j := i; j < len(at); j++ {
			if n, most := j-i+1, allowed(rate, burst, at[j].Sub(at[i])); float64(n) > most {
				t.Fatalf("%d %s within %s, at most %.1f are allowed", n, what, at[j].Sub(at[i]), most)
			}
		}
	}
}

// What a device may do, it can do: a budget is no lottery.
func TestBudgetIsThere(t *testing.T) {
	t.Parallel()
	for _, kind := range wire.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			r := newRoster()
			r.there(t, "edge-1", "edge-2")
			rate, burst := budgetOf(kind)
			_, strikes := roster.Strikes()
			take := func(n int, want roster.Verdict) {
				t.Helper()
				for i := range n {
					if got := r.take("edge-1", kind); got != want {
						t.Fatalf("message %d of %d: %d, want %d", i+1, n, got, want)
					}
				}
			}
			take(burst, roster.Pass)
			take(strikes, roster.Refuse)
			for range 3 {
				if got := r.take("edge-1", kind); !isKick(got) {
					t.Fatalf("a flood: %d", got)
				}
			}
			// Others are not touched by it, nor are other kinds.
			if got := r.take("edge-2", kind); got != roster.Pass {
				t.Errorf("another device: %d", got)
			}
			for _, other := range wire.Kinds {
				if other != kind && r.take("edge-1", other) != roster.Pass {
					t.Errorf("%s is refused for a flood of %s", other, kind)
				}
			}
			for range 5 {
				r.pass(time.Duration(float64(time.Second) / rate))
				take(1, roster.Pass)
			}
			r.Disconnected(100) // reconnecting buys nothing
			if got := r.take("edge-1", kind); got == roster.Pass {
				t.Error("a device that reconnects has another budget")
			}
			r.Reset("edge-1") // another machine
			take(burst, roster.Pass)
		})
	}
}

// Messages of nobody are not answered, and leave nothing behind.
func TestMessagesOfNobody(t *testing.T) {
	t.Parallel()
	r := newRoster()
	if got := r.take("nobody", wire.KindState); got != roster.Ignore || r.Len() != 0 || r.Line("nobody") || r.Answered("nobody", 1<<30) != nil {
		t.Errorf("verdict %d, %d devices are known", got, r.Len())
	}
}

// Dropping the strays of a device helps unless it is the device that floods.
func TestKickOfStraysEndsInAKickOfTheDevice(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.there(t, "edge-1", "edge-2")
	kicked := map[string]int{}
	spend := func(device string) {
		switch r.Take(device, "stray", wire.KindState, 0) {
		case roster.DroppedStrays:
			kicked[device+" strays"]++
		case roster.DroppedDevice:
			kicked[device]++
		}
	}
	_, burst := budgetOf(wire.KindState)
	_, strikes := roster.Strikes()
	flood := func(device string, lasts time.Duration) {
		for range burst + strikes {
			spend(device)
		}
		for end := r.now.Add(lasts); !r.now.After(end); r.pass(10 * time.Millisecond) {
			for range 10 {
				spend(device)
			}
		}
	}
	flood("edge-1", 4*time.Second) // what was on its way
	if diff := cmp.Diff(map[string]int{"edge-1 strays": 5}, kicked); diff != "" {
		t.Error(diff)
	}
	clear(kicked)
	r.pass(time.Minute)
	flood("edge-1", 0) // one that came back
	if diff := cmp.Diff(map[string]int{"edge-1 strays": 1}, kicked); diff != "" {
		t.Error(diff)
	}
	if r.barred(t, "edge-1", "edge-1") || !r.barred(t, "edge-1", "stray") {
		t.Error("the device is kept out for its strays, or they are not")
	}
	clear(kicked)
	flood("edge-2", 7*time.Second)
	if kicked["edge-2"] == 0 || kicked["edge-2 strays"] != 5 || len(kicked) != 2 {
		t.Errorf("of a device that goes on, dropped were %v", kicked)
	}
	if !r.barred(t, "edge-2", "edge-2") {
		t.Error("a device that goes on is not kept out")
	}
	if r.take("edge-2", wire.KindState) != roster.Pass {
		t.Error("its strays have used up the device's budget")
	}
}

// copied is a copy that floods the bus whenever it gets in, under a new name each time,
// and in the name of its connection or in another.
type copied struct {
	*rostertest
	next    uint64
	session func(own string) string
	stays   bool
}

func (c *copied) floods() {
	c.next++
	id, own := c.next, fmt.Sprintf("%016x", c.next)
	if _, err := c.Connected(device, roster.Connection{ID: id, Session: own, Proof: roster.Proof{Key: "k1", Address: "192.0.2.9:1"}}); err != nil {
		return
	}
	if !c.stays { // what it sent is there yet
		c.Disconnected(id)
	}
	for v := roster.Pass; v < roster.Ignore; {
		v = c.Take(device, c.session(own), wire.KindHeartbeat, 10)
	}
	for v := roster.Pass; v < roster.Ignore; {
		v = c.Take(device, c.session(own), wire.KindSnapshot, 10)
	}
	c.Disconnected(id)
}

// A copy that floods while the device has no connection does not keep the device out: not
// the session that proved itself before, also after a restart of the server, and not for
// long the next one after a restart of the device. Either way it is noticed.
func TestFloodKeepsTheDeviceInAndIsNoticed(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(r *rostertest) (session string){
		"after a blip of the network": func(*rostertest) string { return first },
		"after a restart of the server": func(r *rostertest) string {
			record := r.Record(device)
			r.Reset(device)
			r.Load(device, record)
			return first
		},
		"after a restart of the device": func(*rostertest) string { return second },
	} {
		for how, c := range map[string]copied{
			"in its own name":         {session: func(own string) string { return own }, stays: true},
			"in a name of nobody":     {session: func(string) string { return third }, stays: true},
			"by what it left behind":  {session: func(own string) string { return own }},
			"by what nobody left":     {session: func(string) string { return third }},
			"in a new name each time": {session: func(string) string { return fmt.Sprint(rand.Uint64()) }, stays: true},
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				r := newRoster()
				r.Bind(device, roster.Keys{Current: "k1"})
				r.lead(t, device, first, 1)
				r.Disconnected(1)
				session := begin(r)
				c.rostertest, c.next = r, 1<<12
				for range 600 { // half a minute
					c.floods()
					r.pass(50 * time.Millisecond)
				}
				if why := r.Record(device).Suspicion; why != roster.UnprovenFlood {
					t.Errorf("suspicion %q", why)
				}
				in, tries := false, 0
				for ; !in && tries < 60; tries++ { // one in a second
					id := uint64(1<<20 + tries)
					if _, err := r.Connected(device, roster.Connection{ID: id, Session: session, Proof: roster.Proof{Key: "k1", Address: "198.51.100.1:1"}}); err == nil {
						if r.Take(device, session, wire.KindSnapshot, 10) != roster.Pass {
							t.Fatal("the device may not ask")
						}
						_, err := r.Snapshot(device, session, roster.Claim{Epoch: "e1"})
						in = err == nil
					}
					if in || session == first {
						break
					}
					r.Disconnected(id)
					for range 20 {
						c.floods()
						r.pass(50 * time.Millisecond)
					}
				}
				if !in {
					t.Errorf("the device does not get in within %d tries", tries+1)
				}
				if r.takeOf(session, wire.KindHeartbeat) != roster.Pass || r.takeOf(session, wire.KindState) != roster.Pass {
					t.Error("its budget is used up")
				}
			})
		}
	}
}

// takeOf takes a message of a session of the one device.
func (r *rostertest) takeOf(session string, kind wire.Kind) roster.Verdict {
	return r.Take(device, session, kind, 0)
}

// A session that floods beside the current one is kept out alone: the current one may be a
// copy, and a third the device.
func TestFloodBesideTheCurrentSession(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind(device, roster.Keys{Current: "k1"})
	r.lead(t, device, first, 1)
	r.connect(t, device, 2, second, "k1")
	for v := roster.Pass; v < roster.Ignore; {
		v = r.Take(device, second, wire.KindState, 10)
	}
	r.wantDrops(t, "of a flood", 2)
	if !r.barred(t, device, second) || r.barred(t, device, third) || r.barred(t, device, first) {
		t.Error("the session that floods is not kept out, or another is")
	}
	if r.Record(device).Suspicion != roster.UnprovenFlood {
		t.Error("nobody is told")
	}
}

// A flood says more than a key that was replaced, and less than a copy that was seen.
func TestFloodWhenACopyIsSuspected(t *testing.T) {
	t.Parallel()
	for before, after := range map[roster.Suspicion]roster.Suspicion{roster.RetiredKey: roster.UnprovenFlood, roster.StaleNonce: roster.StaleNonce} {
		r := newRig(t)
		r.settled()
		if before == roster.RetiredKey {
			r.retired(third, roster.Proof{Key: "k0"})
		} else {
			r.disconnect(first)
			r.refused(third, "an old one", wire.RefusedQuarantined)
			r.connect(first)
		}
		if r.suspicion() != before {
			t.Fatalf("suspicion %q, want %q", r.suspicion(), before)
		}
		r.connect(second)
		for v := roster.Pass; v < roster.Ignore; {
			v = r.Take(device, second, wire.KindState, 10)
		}
		if r.suspicion() != after {
			t.Errorf("after %s and a flood the suspicion is %s, want %s", before, r.suspicion(), after)
		}
	}
}

// The longest message of each kind costs what a short one costs.
func TestLongestMessageCountsOnce(t *testing.T) {
	t.Parallel()
	for _, kind := range wire.Kinds {
		r := newRoster()
		r.Bind(device, roster.Keys{Current: "k1"})
		r.lead(t, device, first, 1)
		for i := range kind.Verb().Burst {
			if v := r.Take(device, first, kind, kind.Verb().MaxRequest); v != roster.Pass {
				t.Errorf("%s: message %d of %d is not let through: %v", kind, i+1, kind.Verb().Burst, v)
			}
		}
	}
}

// The current session that floods is kept out itself, at first: if it is a copy that took
// over, the device can be heard meanwhile.
func TestFloodOfTheCurrentSession(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.Bind(device, roster.Keys{Current: "k1"})
	r.lead(t, device, first, 1)
	flood := func() {
		for v := roster.Pass; v < roster.Ignore; {
			v = r.Take(device, first, wire.KindState, 10)
		}
	}
	flood()
	r.wantDrops(t, "of a flood", 1)
	if !r.barred(t, device, first) || r.barred(t, device, second) {
		t.Error("the session that floods is not kept out, or another is")
	}
	for range 60 { // it goes on
		r.pass(100 * time.Millisecond)
		flood()
	}
	if !r.barred(t, device, second) {
		t.Error("a flood that goes on keeps nobody else out")
	}
}

// Every MiB that a device is sent, somebody looks whether it reads.
func TestAnswersAreLookedAtNowAndThen(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.there(t, "edge-1")
	for i := range 4096 {
		look := r.Answered("edge-1", 1<<10)
		if due := (i+1)%1024 == 0; due != (len(look) == 1) {
			t.Fatalf("after %d KiB the connections to look at are %v", i+1, look)
		}
	}
}

// The largest manifest can be fetched and reported at once.
func TestBudgetsCoverTheLargestManifest(t *testing.T) {
	t.Parallel()
	if _, burst := budgetOf(wire.KindBody); burst < wire.MaxEntries {
		t.Errorf("%d bodies at once", burst)
	}
	if _, burst := budgetOf(wire.KindState); burst < wire.MaxEntries {
		t.Errorf("%d reports at once", burst)
	}
}

// A device that asks for one new key after the other, and uses none, is stopped: each
// leaves a tombstone.
func TestKeysThatAreGivenUpAreFew(t *testing.T) {
	t.Parallel()
	r := newStanding(tombstones(t))
	r.Bind("edge-1", roster.Keys{Current: "key"})
	given := 0
	for range 1000 {
		if r.MayDropKey("edge-1") {
			given++
		}
	}
	if given < 2 || given > 10 || r.MayDropKey("nobody") {
		t.Errorf("%d keys are given up at once", given)
	}
}

// What a device says costs it no strike while its budget for that kind lasts.
func TestEveryKindHasABudget(t *testing.T) {
	t.Parallel()
	for _, kind := range wire.Kinds {
		r := newRoster()
		r.there(t, "edge-1")
		if v := r.take("edge-1", kind); v != roster.Pass {
			t.Errorf("the first %s of a device: verdict %d", kind, v)
		}
	}
}
