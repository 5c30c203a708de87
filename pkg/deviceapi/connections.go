package deviceapi

import (
	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/deviceapi/session"
)

// SessionConnections are a broker's connections, as a session.Table asks for them.
type SessionConnections struct{ *broker.Broker }

// SessionProof implements session.Connections.
func (c SessionConnections) SessionProof(device, id string) (session.Proof, bool) {
	p, ok := c.Broker.SessionProof(device, id)
	return session.Proof(p), ok
}
