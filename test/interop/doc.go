// Package interop tests fleet-server as shipped with programs of others that people
// bring. `make interop` builds them, each in a module of its own below tools, so that
// nothing of theirs is linked into ours.
package interop
