package deviceapi_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/deviceapi"
	"fleet.nationtech.io/fleet/pkg/guard"
)

// nudges subscribes to what a bus carries to devices.
func nudges(t testing.TB, b *brokertest.Bus) chan *nats.Msg {
	t.Helper()
	msgs := make(chan *nats.Msg, 10000)
	if _, err := b.Devices.ChanSubscribe("fleet.v1.down.>", msgs); err != nil {
		t.Fatal(err)
	}
	if err := b.Devices.Flush(); err != nil {
		t.Fatal(err)
	}
	return msgs
}

// newNudger returns a nudger that waits so long for those who do not ask, and what it
// sends to devices.
func newNudger(t testing.TB, current func(device string) string, patience time.Duration) (*brokertest.Bus, *deviceapi.Nudger, chan *nats.Msg) {
	t.Helper()
	b := brokertest.Start(t, nil)
	msgs := nudges(t, b)
	n := deviceapi.NewNudger(b.Devices, current, logger(t))
	n.SetPatience(patience)
	return b, n, msgs
}

func wantNudge(t testing.TB, msgs chan *nats.Msg, device string) {
	t.Helper()
	m := <-msgs
	if m.Subject != "fleet.v1.down."+device+"."+brokertest.Session+".nudge" || len(m.Data) > 0 {
		t.Errorf("nudge is %s %q, want one for %s", m.Subject, m.Data, device)
	}
}

func TestWaitingNudgesAreSentOnce(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	msgs := nudges(t, b)
	n := deviceapi.NewNudger(b.Devices, current, logger(t))
	for range 5 {
		n.Add("edge-1")
		n.Add("edge-2")
	}
	n.Add("Not.A*Name") // is logged, and stops nobody
	n.Add("edge-3")
	background(t, n.Run)
	for _, device := range []string{"edge-1", "edge-2", "edge-3"} {
		wantNudge(t, msgs, device)
	}
	n.Add("edge-1") // the change that came after the nudge was sent
	wantNudge(t, msgs, "edge-1")
}

// As many devices are nudged as may ask at one time; then each that has asked lets
// another one be.
func TestNudgesArePacedByThoseWhoAsk(t *testing.T) {
	t.Parallel()
	b, n, msgs := newNudger(t, current, time.Hour)
	const devices = 2 * deviceapi.MaxNudged
	for i := range devices {
		n.Add(edge(i))
	}
	background(t, n.Run)
	for i := range devices {
		wantNudge(t, msgs, edge(i)) // in the order of their coming
		if i < deviceapi.MaxNudged-1 {
			continue
		}
		if err := b.Devices.Flush(); err != nil {
			t.Fatal(err)
		}
		if len(msgs) > 0 {
			t.Fatalf("%d devices are nudged, and %d have asked", i+1+len(msgs), i+1-deviceapi.MaxNudged)
		}
		n.Asked(edge(i))
		n.Asked(edge(i)) // once more by itself
	}
}

// Devices that never ask do not hold up the others.
func TestDevicesThatHangLoseTheirPlaces(t *testing.T) {
	t.Parallel()
	_, n, msgs := newNudger(t, current, time.Millisecond)
	for i := range 3 * deviceapi.MaxNudged {
		n.Add(edge(i))
	}
	background(t, n.Run)
	for i := range 3 * deviceapi.MaxNudged {
		wantNudge(t, msgs, edge(i))
	}
}

// Devices that are not there take no places.
func TestAbsentDevicesTakeNoPlaces(t *testing.T) {
	t.Parallel()
	_, n, msgs := newNudger(t, func(device string) string {
		if device == "there" {
			return brokertest.Session
		}
		return ""
	}, time.Hour)
	for i := range 2 * deviceapi.MaxNudged {
		n.Add(edge(i))
	}
	n.Add("there")
	background(t, n.Run)
	wantNudge(t, msgs, "there")
}

func edge(i int) string { return fmt.Sprintf("edge-%d", i) }

// current is the session of every device.
func current(string) string { return brokertest.Session }

// A mistake of the program costs no device its nudge, nor a place.
func TestAPanicCostsNoNudge(t *testing.T) {
	t.Parallel()
	panics := 0
	_, n, msgs := newNudger(t, func(device string) string {
		if device == "unlucky" && panics < 2 {
			panics++
			panic("a mistake")
		}
		return brokertest.Session
	}, time.Hour)
	for i := range deviceapi.MaxNudged - 1 {
		n.Add(edge(i))
	}
	n.Add("unlucky") // one place is left
	background(t, func(ctx context.Context) {
		_ = guard.NewPanics().Loop("nudges", logger(t)).Keep(ctx, n.Loop)
	})
	for i := range deviceapi.MaxNudged - 1 {
		wantNudge(t, msgs, edge(i))
	}
	wantNudge(t, msgs, "unlucky")
}
