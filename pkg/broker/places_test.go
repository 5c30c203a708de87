package broker_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/connlimit"
	"fleet.nationtech.io/fleet/test/wait"
)

// startWithin runs a broker with so many places.
func startWithin(t *testing.T, places connlimit.Limits) *brokertest.Bus {
	t.Helper()
	b := brokertest.Start(t, nil)
	c := b.Config
	c.Places, c.StoreDir = places, filepath.Join(t.TempDir(), "nats")
	second, err := broker.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Shutdown)
	b.Broker = second
	return b
}

// Many more devices than one host has places for strangers come in from behind
// one address, all at once and beside a stranger who fills these places again
// and again, and stay.
func TestDevicesBehindOneAddress(t *testing.T) {
	t.Parallel()
	const devices, forStrangers = 300, 32
	b := startWithin(t, connlimit.Limits{Strangers: forStrangers, OfHost: forStrangers, OfSite: forStrangers, Local: forStrangers, Known: devices + 10})
	certs := make([]tls.Certificate, devices)
	for i := range certs {
		certs[i] = b.Enroll(fmt.Sprintf("edge-%d", i))
	}
	var silent []net.Conn
	fill := func() {
		for range forStrangers {
			if c, err := net.Dial("tcp", b.Addr().String()); err == nil {
				silent = append(silent, c)
			}
		}
	}
	defer func() {
		for _, c := range silent {
			_ = c.Close()
		}
	}()
	fill()
	var coming sync.WaitGroup
	for i, cert := range certs {
		coming.Go(func() {
			wait.For(t, "a device's connection", time.Minute, 200*time.Millisecond, func() error {
				c, err := b.Dial(cert, nats.Timeout(5*time.Second), nats.CustomInboxPrefix(fmt.Sprintf("_INBOX_edge-%d", i)))
				if err == nil {
					t.Cleanup(c.Close)
				}
				return err
			})
		})
	}
	coming.Wait()
	fill()
	if n := b.Roster.Count(); n != devices {
		t.Errorf("%d devices are connected, want %d", n, devices)
	}
}

// All places for those that are known are taken: a further device is told to
// wait, and gets the place of one that leaves.
func TestPlacesForDevicesAreBounded(t *testing.T) {
	t.Parallel()
	b := startWithin(t, connlimit.Limits{Strangers: 8, OfHost: 8, OfSite: 8, Local: 8, Known: 2})
	first := b.Connect("edge-1")
	b.Connect("edge-2")
	cert := b.Enroll("edge-3")
	if c, err := b.Dial(cert); err == nil {
		c.Close()
		t.Fatal("there is a place for a third device of two")
	}
	first.Close()
	wait.For(t, "the place of a device that left", 10*time.Second, 10*time.Millisecond, func() error {
		c, err := b.Dial(cert)
		if err == nil {
			t.Cleanup(c.Close)
		}
		return err
	})
	// The place is free when the connection has closed, and the roster hears of it
	// after that.
	devices(t, b, 2)
}
