// Package deviceclient is the device's side of what devices and servers say to each
// other: a method for each of wire.Verbs, over a connection of nats.go that somebody
// else opened.
//
// The agent and the simulator speak through it, by way of package link, which keeps
// the connection. Tests speak through it with connections of their own; those that
// attack the server also send by it what no device would, see Client.Do.
//
// It imports the contract and nats.go only, and belongs to the device's side: the
// server never imports it.
package deviceclient
