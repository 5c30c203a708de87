package plane

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/roster"
)

// ErrNotReady: nobody can tell yet which devices may come in.
var ErrNotReady = errors.New("the server is starting")

// readyTimeout is how long a connection waits for a roster that is filled at
// start. Refused devices would back off for longer than the start takes.
const readyTimeout = 10 * time.Second

// TrustDomain is the fleet in spiffe://<fleet>/device/<id>. The authority that signs is what
// tells fleets apart.
const TrustDomain = "fleet"

// Gate is the bus.Gate of a roster that is filled at start: devices that come
// before wait. A bus needs it before there can be a plane.
type Gate struct {
	*roster.Roster

	outside *outside
	ready   chan struct{}
	once    sync.Once
}

// NewGate returns the closed gate of an empty roster. fleet is the trust domain of
// the certificates of devices.
func NewGate(fleet string, revoked roster.Revoked) *Gate {
	o := &outside{}
	return &Gate{
		Roster:  roster.New(roster.Config{Fleet: fleet, Revoked: revoked, Outside: o}),
		outside: o, ready: make(chan struct{}),
	}
}

// Open lets devices in.
func (g *Gate) Open() { g.once.Do(func() { close(g.ready) }) }

// AuthenticateDevice implements bus.Gate. Whoever is no device of this fleet does not
// wait.
func (g *Gate) AuthenticateDevice(cert *x509.Certificate, session, address string) (device string, err error) {
	if _, err := g.Named(cert); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	select {
	case <-g.ready:
		return g.Roster.AuthenticateDevice(cert, session, address)
	case <-ctx.Done():
		return "", ErrNotReady
	}
}

// outside does what the roster decides. Its fields are set before the gate opens,
// and before the first Device is known.
type outside struct {
	bus.Connections
	devices
	strangers
}

// devices is the controller of Devices.
type devices interface {
	NonceShown(device string)
	StatusChanged(device string)
	Leaves(device string)
	Outdated(device string)
}

// strangers is the controller of enrollment.
type strangers interface {
	Stranger(device, key string, expires time.Time)
}
