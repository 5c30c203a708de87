// Package roster holds what a server knows of each device in memory: which keys
// it may come in with, its connections, which of its sessions is the device, when
// it was last heard, what it may still send, and the digests of what it reported.
//
// It decides and does nothing: what has to be done outside, it asks of an Outside.
// It imports the standard library and package wire.
package roster
