package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"unsafe"

	"github.com/nats-io/nats-server/v2/server"

	"fleet.nationtech.io/fleet/pkg/connlimit"
)

// DefaultPlaces are for a process that may open 65,536 files.
var DefaultPlaces = connlimit.Limits{Strangers: 4096, OfHost: 1024, OfSite: 2048, Local: 1024, Known: 55 << 10, StrangerBytes: StrangerBytes}

// StrangerBytes is far more than what a device sends until it is known: a
// handshake and a CONNECT of at most bus.MaxControlLine.
const StrangerBytes = 64 << 10

// listen takes the address for devices.
func listen(address string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address for devices %q: it must have the form host:port or :port", address)
	}
	if _, err := strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("address for devices %q: the port must be a number", address)
	}
	// NATS looks after connections by its own pings.
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for devices: %w: choose another with --nats-listen, or stop what uses this one", err)
	}
	return l, nil
}

// closeListener closes a listener that NATS may have closed already.
func closeListener(l net.Listener) error {
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// acceptFrom makes a server that has not started yet accept from l. NATS has no
// option for a listener, but it takes the one that it has already, should there
// be one. If a later version has none, the server does not start.
func acceptFrom(s *server.Server, l net.Listener) error {
	field := reflect.ValueOf(s).Elem().FieldByName("listener")
	if !field.IsValid() || field.Type() != reflect.TypeFor[net.Listener]() {
		return errors.New("configuring NATS: this version of it cannot be given a listener")
	}
	reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Set(reflect.ValueOf(l))
	return nil
}
