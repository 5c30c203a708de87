package roster_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Whatever happens in whatever order, every connection is of one device, what is
// dropped is open, and when the devices are gone nothing of them is left.
func TestNothingIsLeftOfDevicesThatAreGone(t *testing.T) {
	t.Parallel()
	names := []string{"edge-1", "edge-2", "edge-3"}
	sessions := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		r := newRoster()
		open := map[uint64]string{}
		var next uint64
		name := func() string { return rapid.SampledFrom(names).Draw(t, "name") }
		session := func() string { return rapid.SampledFrom(sessions).Draw(t, "session") }
		key := func() string { return rapid.SampledFrom([]string{"k1", "k2", "k3"}).Draw(t, "key") }
		actions := map[string]func(*rapid.T){
			"bind":    func(*rapid.T) { r.Bind(name(), roster.Keys{Current: key(), Next: key()}) },
			"revoke":  func(*rapid.T) { r.Revoke(name(), wire.RevocationStop) },
			"left":    func(*rapid.T) { r.Left(name()) },
			"unbind":  func(*rapid.T) { r.Unbind(name()) },
			"reset":   func(*rapid.T) { r.Reset(name()) },
			"forget":  func(*rapid.T) { r.Forget(name()) },
			"drop":    func(*rapid.T) { r.Drop(name()) },
			"bar":     func(*rapid.T) { r.Bar(name()) },
			"strays":  func(*rapid.T) { r.BarStrays(name()) },
			"session": func(*rapid.T) { r.BarSession(name(), session()) },
			"sweep":   func(*rapid.T) { r.Sweep() },
			"expire":  func(*rapid.T) { r.DropExpired(r.now) },
			"unproven": func(*rapid.T) {
				r.DropUnproven(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "for")))
			},
			"pass":   func(*rapid.T) { r.pass(time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "pause"))) },
			"report": func(*rapid.T) { _ = r.Report(name(), session()) },
			"take":   func(*rapid.T) { r.Take(name(), session(), wire.KindState, 10) },
			"snapshot": func(*rapid.T) {
				_, _ = r.Snapshot(name(), session(), roster.Claim{Epoch: "e1"})
			},
			"connect": func(*rapid.T) {
				next++
				n := name()
				if r.Check(n, "k1") != nil { // an authenticator lets nobody else come so far
					return
				}
				if _, err := r.Connected(n, roster.Connection{ID: next, Session: session(), Proof: roster.Proof{Key: key(), Expires: r.now.Add(time.Hour)}}); err == nil {
					open[next] = n
				}
			},
			"disconnect": func(*rapid.T) {
				for id := range open {
					r.Disconnected(id)
					delete(open, id)
					return
				}
			},
			"": func(t *rapid.T) {
				known := r.Connections()
				if len(known) != len(open) {
					t.Fatalf("%d connections are known, %d are open", len(known), len(open))
				}
				for id, n := range open {
					if of, _ := r.DeviceOf(id); of != n {
						t.Fatalf("connection %d is of %q, want %q", id, of, n)
					}
				}
				for _, id := range r.drops() {
					if _, is := open[id]; !is {
						t.Fatalf("connection %d is dropped, which is not open", id)
					}
				}
				if n := len(slices.Compact(slices.Sorted(maps.Values(open)))); r.Count() != n {
					t.Fatalf("%d devices are connected, want %d", r.Count(), n)
				}
			},
		}
		t.Repeat(actions)
		for id := range open {
			r.Disconnected(id)
		}
		for _, n := range names {
			r.Forget(n)
		}
		if r.Len() != 0 || len(r.Connections()) != 0 {
			t.Fatalf("%d devices and %d connections are left", r.Len(), len(r.Connections()))
		}
	})
}

// A device whose object is gone while it is connected is remembered until its
// connections have ended, so that they are dropped with those of the next device of
// that name.
func TestForgottenWhileConnected(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.there(t, "edge-1")
	r.Forget("edge-1")
	if err := r.Check("edge-1", "k1"); err == nil || r.Len() != 1 {
		t.Errorf("a device that is gone may come in: %v", err)
	}
	r.Bind("edge-1", roster.Keys{Current: "k2"})
	r.DropOtherKeys("edge-1", "k2")
	if dropped := fmt.Sprint(r.drops()); dropped != "[100]" {
		t.Errorf("dropped are %s", dropped)
	}
	r.Disconnected(100)
	if err := r.Check("edge-1", "k2"); err != nil {
		t.Errorf("the next device of that name is forgotten: %v", err)
	}
}
