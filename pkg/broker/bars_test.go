package broker_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
)

func TestBarredDeviceStaysOut(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	c := b.Enroll("edge-1")
	first := open(t, func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, opts...) })
	other := b.Connect("edge-2")
	b.Bar("edge-1")
	<-first.closed
	if _, err := b.Dial(c); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a barred device connects: %v", err)
	}
	if err := other.Flush(); err != nil {
		t.Errorf("another device was dropped: %v", err)
	}
}

func TestBarsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := broker.NewBars()
		b.Add("edge-1", "")
		b.Add("edge-3", "good")
		time.Sleep(broker.BarTime - time.Second)
		if !b.Has("edge-1", "good") || b.Has("edge-2", "") {
			t.Error("the device is not barred, or another is")
		}
		if b.Has("edge-3", "good") || !b.Has("edge-3", "other") || !b.Has("edge-3", "") {
			t.Error("of a device that may connect with one session, that is barred, or another is not")
		}
		b.Add("edge-1", "good") // weakens nothing
		b.Add("edge-3", "")
		time.Sleep(2 * time.Second)
		if !b.Has("edge-1", "good") || !b.Has("edge-3", "good") {
			t.Error("the device is barred for one session less, or not all of one that was barred in part")
		}
		time.Sleep(broker.BarTime)
		if b.Has("edge-1", "other") || b.Has("edge-3", "other") {
			t.Error("the device is still barred")
		}
	})
}

// What a copy does over its own connection is not held against the device.
func TestBarredStraysStayOut(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	c := b.Enroll("edge-1")
	const device, copied = "00000000000000a1", "00000000000000b2"
	dial := func(session string) (*nats.Conn, error) { return b.Dial(c, nats.Name(session)) }
	good := open(t, func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, append(opts, nats.Name(device))...) })
	stray := open(t, func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, append(opts, nats.Name(copied))...) })
	devices(t, b, 1)
	b.SetCurrent("edge-1", device)
	b.BarStrays("edge-1")
	<-stray.closed
	for _, session := range []string{copied, "00000000000000c3"} {
		if c, err := dial(session); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("a barred session %q connects: %v", session, err)
			c.Close()
		}
	}
	if err := good.Flush(); err != nil {
		t.Errorf("the device was dropped: %v", err)
	}
	again, err := dial(device)
	if err != nil {
		t.Fatalf("the device cannot come back: %v", err)
	}
	again.Close()
}

func TestBarredStraysOfADeviceWithoutASession(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	c := b.Enroll("edge-1")
	first := open(t, func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, opts...) })
	b.BarStrays("edge-1")
	<-first.closed
	again, err := b.Dial(c)
	if err != nil {
		t.Fatalf("nobody can tell which is the copy, and none comes back: %v", err)
	}
	again.Close()
}
