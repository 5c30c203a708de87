package bus

import (
	"crypto/x509"

	"fleet.nationtech.io/fleet/pkg/roster"
)

// Gate decides which devices may connect to a bus, and learns which are. Its
// methods do not block, but for AuthenticateDevice. A *roster.Roster is one.
type Gate interface {
	// Named returns the name of the device that a certificate names, whatever its age and
	// whoever signed it.
	Named(cert *x509.Certificate) (device string, err error)
	// AuthenticateDevice returns the name of the device that holds cert, whose
	// chain and validity are already verified, or the reason to refuse it. session is
	// what the client calls its session, if it has one, address where it comes from.
	AuthenticateDevice(cert *x509.Certificate, session, address string) (device string, err error)
	// Connected tells of a connection of a device that may come in, before anything
	// is taken from it. With an error it is refused. crowded tells that others of the
	// device are dropped for it.
	Connected(device string, c roster.Connection) (crowded bool, err error)
	// Disconnected tells that a connection ended.
	Disconnected(connection uint64)
	// Connections lists those that were told of and have not ended.
	Connections() []uint64
	// Misused tells of a connection that keeps breaking the rules of the bus. It
	// returns false when the connection is no device's.
	Misused(connection uint64) (known bool)
	// Outdated tells of a device whose agent is too old for this server, and which is
	// refused.
	Outdated(device string)
}

// Connections are the connections of devices to a bus. Its methods do not block
// and are safe for concurrent use. One that has ended is no error.
type Connections interface {
	// Drop ends connections.
	Drop(connections []uint64)
	// DropUnread ends those that leave too much of what they are sent unread.
	DropUnread(connections []uint64)
}
