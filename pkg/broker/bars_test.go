package broker_test

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
)

func TestBarredDeviceStaysOut(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	c := b.Enroll("edge-1")
	first := open(t, func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, opts...) })
	other := b.Connect("edge-2")
	b.Roster.Bar("edge-1")
	<-first.closed
	if _, err := b.Dial(c); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a barred device connects: %v", err)
	}
	if err := other.Flush(); err != nil {
		t.Errorf("another device was dropped: %v", err)
	}
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
	b.Prove("edge-1", device)
	b.Roster.BarStrays("edge-1")
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
	b.Roster.BarStrays("edge-1")
	<-first.closed
	again, err := b.Dial(c)
	if err != nil {
		t.Fatalf("nobody can tell which is the copy, and none comes back: %v", err)
	}
	again.Close()
}
