package broker

import "net"

// MarkerTTL is how long a marker of a removed key stays.
const MarkerTTL = markerTTL

// InProcessConn implements nats.InProcessConnProvider.
func (b *Broker) InProcessConn() (net.Conn, error) { return b.server.InProcessConn() }
