package broker_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/roster"
)

// NATS ends every connection that reads too slowly, those of the server itself
// too. Devices have their answers, and buckets their watchers, long before the
// client would try again by default.
func TestOwnConnectionsComeBack(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	if _, err := b.Devices.Subscribe("fleet.v1.up.edge-1.snapshot", func(m *nats.Msg) { _ = m.Respond([]byte("answer")) }); err != nil {
		t.Fatal(err)
	}
	if err := b.Devices.Flush(); err != nil {
		t.Fatal(err)
	}
	device := b.Connect("edge-1")
	devices(t, b, 1)
	for _, own := range b.Own() {
		if err := b.End(own); err != nil {
			t.Fatal(err)
		}
	}
	brokertest.Eventually(t, "the device is answered", func() error {
		_, err := device.Request("fleet.v1.up.edge-1.snapshot", nil, time.Second)
		return err
	})
	brokertest.Eventually(t, "the bucket takes a key", func() error {
		_, err := b.Buckets.State.Put(t.Context(), "edge-1", []byte("state"))
		return err
	})
	for _, own := range []*nats.Conn{b.Devices, b.Core} { // how long they took is the machine's matter
		if wait := own.Opts.ReconnectWait; wait > nats.DefaultReconnectWait/100 {
			t.Errorf("a connection of the server waits %s until it comes back", wait)
		}
	}
	if !device.IsConnected() {
		t.Error("the device's connection ended, too")
	}
}

// What ends while the server hears nothing of ends is noticed afterwards.
func TestMissedEndsAreNoticed(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	b.Connect("edge-1")
	b.Roster.Bind("edge-2", roster.Keys{Current: "k1"})
	if _, err := b.Roster.Connected("edge-2", roster.Connection{ID: 1 << 62}); err != nil { // whose end nobody told of
		t.Fatal(err)
	}
	devices(t, b, 2)
	for _, own := range b.Own() {
		if err := b.End(own); err != nil {
			t.Fatal(err)
		}
	}
	devices(t, b, 1)
	if _, connected := b.Roster.Proof("edge-1", brokertest.Session); !connected {
		t.Error("the device that is there was forgotten")
	}
}
