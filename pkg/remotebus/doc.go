// Package remotebus is the bus of a NATS that somebody else runs: one server, a cluster or
// a supercluster, as its official Helm chart installs it.
//
// NATS asks who a device is by its auth callout, and Bus answers from the same gate, with
// the same permissions, as package broker does in its own process. It learns from system
// events which connections begin and end, and ends connections by requests of the system
// account. So the server's configuration has three accounts, of devices, of the buckets and
// of the system, and names a public key that answers are signed with; see package natschart.
//
// NATS numbers connections by server, so Bus gives each a number of its own.
package remotebus
