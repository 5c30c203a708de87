package broker_test

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
)

// lazy dials connections of which nobody reads once that is switched on.
type lazy struct {
	on    atomic.Bool
	ended chan struct{}
}

// Dial implements nats.CustomDialer.
func (l *lazy) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return &lazyConn{Conn: c, dialer: l}, err
}

type lazyConn struct {
	net.Conn

	dialer *lazy
}

// Read implements net.Conn.
func (c *lazyConn) Read(p []byte) (int, error) {
	if c.dialer.on.Load() {
		<-c.dialer.ended
	}
	return c.Conn.Read(p)
}

// A device that does not read is dropped before NATS makes those wait that
// answer it; one that reads as much is left alone.
func TestUnreadAnswersEndTheConnection(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	dialer := &lazy{ended: make(chan struct{})}
	t.Cleanup(func() { close(dialer.ended) })
	ignore := func(*nats.Msg) {}
	for device, opts := range map[string][]nats.Option{"idle": {nats.SetCustomDialer(dialer)}, "busy": nil} {
		c := b.Connect(device, opts...)
		if _, err := c.Subscribe(brokertest.Inbox(device)+".a", ignore); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	devices(t, b, 2)
	dialer.on.Store(true)
	piece, sent := make([]byte, 64<<10), 0
	brokertest.Eventually(t, "the device that does not read is dropped", func() error {
		sent += len(piece)
		for _, device := range []string{"idle", "busy"} {
			if err := b.Devices.Publish(brokertest.Inbox(device)+".a", piece); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Devices.Flush(); err != nil {
			t.Fatal(err)
		}
		b.DropUnread(connectionsOf(b, "idle"))
		b.DropUnread(connectionsOf(b, "busy"))
		if b.Roster.Count() != 1 {
			return errors.New("it is still there")
		}
		return nil
	})
	// The system's buffers take some, too.
	if most := broker.MaxPending / 8; sent > most {
		t.Errorf("it was dropped after %d bytes, want at most %d", sent, most)
	}
	if _, connected := b.Roster.Proof("busy", brokertest.Session); !connected {
		t.Error("the device that reads was dropped")
	}
	b.DropUnread([]uint64{1 << 62})
}

func connectionsOf(b *brokertest.Bus, device string) (ids []uint64) {
	for _, id := range b.Roster.Connections() {
		if of, _ := b.Roster.DeviceOf(id); of == device {
			ids = append(ids, id)
		}
	}
	return ids
}
