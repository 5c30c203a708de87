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
		b.Add("edge-1")
		time.Sleep(broker.BarTime - time.Second)
		if !b.Has("edge-1") || b.Has("edge-2") {
			t.Error("the device is not barred, or another is")
		}
		time.Sleep(2 * time.Second)
		if b.Has("edge-1") {
			t.Error("the device is still barred")
		}
	})
}
