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

// Whatever sessions ask in whatever order, what was accepted is accepted again, and a
// session is set aside once, and not the current one meanwhile.
func TestSessionsAtRandom(t *testing.T) {
	t.Parallel()
	sessions := []string{first, second, third}
	rapid.Check(t, func(rt *rapid.T) {
		r := newRoster()
		r.Bind(device, roster.Keys{Current: "k1"})
		open := map[string]uint64{}
		kept := []string{"", "an old one"} // the nonces that anybody may show
		var next uint64
		session := func() string { return rapid.SampledFrom(sessions).Draw(rt, "session") }
		leave := func(s string) {
			r.Disconnected(open[s])
			delete(open, s)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"connect": func(*rapid.T) {
				s := session()
				leave(s)
				next++
				if _, err := r.Connected(device, roster.Connection{ID: next, Session: s, Proof: roster.Proof{Key: "k1"}}); err == nil {
					open[s] = next
				}
			},
			"leave":  func(*rapid.T) { leave(session()) },
			"pass":   func(*rapid.T) { r.pass(time.Duration(rapid.Int64Range(0, int64(2*roster.Grace)).Draw(rt, "pause"))) },
			"day":    func(*rapid.T) { r.pass(25 * time.Hour) },
			"report": func(*rapid.T) { _ = r.Report(device, session()) },
			"store":  func(*rapid.T) { r.Stored(device, r.Record(device).Nonce) },
			"accept": func(*rapid.T) {
				if c := r.Claimants(device); len(c) > 0 {
					r.Accept(device, rapid.SampledFrom(c).Draw(rt, "claimant").Label)
				}
			},
			"restart": func(*rapid.T) {
				record := r.Record(device)
				r.Reset(device)
				r.Load(device, record)
			},
			"retired": func(*rapid.T) {
				r.renewed["k0"] = true
				_ = r.Admit(device, session(), roster.Proof{Key: "k0"})
			},
			"snapshot": func(*rapid.T) {
				s := session()
				claim := roster.Claim{Nonce: rapid.SampledFrom(kept).Draw(rt, "nonce"), Epoch: rapid.SampledFrom([]string{"e1", "e2"}).Draw(rt, "epoch")}
				offer, err := r.Snapshot(device, s, claim)
				if offer != "" {
					kept = append(kept, offer)
				}
				if err != nil {
					return
				}
				if _, err := r.Snapshot(device, s, claim); err != nil {
					rt.Fatalf("what was accepted is refused when it is repeated: %v", err)
				}
			},
			"": func(rt *rapid.T) {
				labels := map[string]bool{}
				for _, c := range r.Claimants(device) {
					if labels[c.Label] {
						rt.Fatalf("session %s claims to be the device twice", c.Label)
					}
					labels[c.Label] = true
					if c.Current != (c.Session != "" && c.Session == r.Current(device)) {
						rt.Fatalf("claimant %+v, while %q is the current session", c, r.Current(device))
					}
				}
			},
		})
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
