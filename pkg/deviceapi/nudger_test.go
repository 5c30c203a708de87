package deviceapi_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/deviceapi"
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

func TestNudgesArePaced(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	msgs := nudges(t, b)
	n := deviceapi.NewNudger(b.Devices, current, logger(t))
	const devices = deviceapi.NudgeBurst + deviceapi.NudgeRate/4
	for i := range devices {
		n.Add(fmt.Sprintf("edge-%d", i))
	}
	began := time.Now()
	background(t, n.Run)
	for i := range devices {
		wantNudge(t, msgs, fmt.Sprintf("edge-%d", i)) // in the order of their coming
	}
	if took := time.Since(began); took < time.Second/5 {
		t.Errorf("%d nudges within %s", devices, took)
	}
}

// current is the session of every device.
func current(string) string { return brokertest.Session }
