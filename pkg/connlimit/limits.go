// Package connlimit bounds how many connections a listener has, so that
// strangers neither use up the descriptors and the memory of the process nor
// keep out those that the server knows.
//
// A connection begins as a stranger's. It takes one of the places for
// strangers, which are bounded for each network and together, until Know says
// whom it belongs to; from then on it takes one of the places for those that
// are known. Strangers of the machine itself have places of their own.
//
// Where a place is missing, the connection goes that has let the server wait
// for the longest time, of the network that has the most of them. So a
// crowd of silent connections, from however many networks, keeps nobody out. If
// all have come just now, the lot decides on one that has said nothing yet.
//
// The listeners of the server import it.
package connlimit

import (
	"net/netip"
	"time"
)

// Limits are the places of a listener.
type Limits struct {
	// Strangers are the places for connections that have not proved whose they
	// are: together, of one host (an IPv4 address or an IPv6 /64) and of one site
	// (an IPv6 /48, which has 65,536 of them).
	Strangers, OfHost, OfSite int
	// Local are the places for strangers of this machine.
	Local int
	// Known are the places for connections whose holder is known.
	Known int
	// StrangerBytes is how much a stranger may send over one connection, zero for
	// any amount.
	StrangerBytes int64
}

// All is how many connections there may be.
func (l Limits) All() int { return l.Strangers + l.Local + l.Known }

// patience is how long a connection may let the server wait before another one
// of its own network may take its place: many round trips of a slow link.
const patience = 2 * time.Second

// bitsOfSite is how much of an IPv6 address is one site's, commonly.
const bitsOfSite = 48

// siteOf is the network that is given to one site, or empty for IPv4.
func siteOf(address string) string {
	client, err := netip.ParseAddrPort(address)
	if err != nil {
		return ""
	}
	ip := client.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ""
	}
	site, _ := ip.Prefix(bitsOfSite) // fails for IPv4 only
	return site.String()
}

// isLocal reports whether a client is on this machine.
func isLocal(address string) bool {
	client, err := netip.ParseAddrPort(address)
	return err != nil || client.Addr().Unmap().IsLoopback()
}
