// Package plane is the control plane of a fleet over any API and any bus: the door
// that devices come in by, and the controllers. Package embedserver gives it an API,
// a bus and authorities of its own.
//
// Some parts are the leader's: one process at a time decides what runs where, what
// the objects of devices say, and who enrolls. Others belong to whoever owns a
// device: its record in the roster, and the door that answers it. At present one
// process is both.
package plane
