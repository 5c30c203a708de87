// Package helper is what the agent has done on the workloads' side: it makes sockets in the
// networks of containers, for which the agent has no rights, and looks along the paths that
// containers mount, which the agent's unit may hide, and finds and repairs damage in
// podman's storage, see package storage.
//
// A container's network is a namespace that belongs to the account of the workloads, and
// only a process of that account can enter it. So systemd of that account starts a
// Server beside podman when the agent connects to its socket. The Server makes sockets
// inside of the container and hands them over. They stay there, whoever connects them: a
// Dialer does, and what is said is the agent's business, so that the helper knows no protocol.
//
// The account of the workloads is trusted less than the agent: a container that breaks
// out can take the helper's place. A Client takes at most one message of bounded length and
// a few sockets from it, within a bounded time.
package helper
