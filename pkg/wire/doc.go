// Package wire is the contract between fleet-server and fleet-agent: the
// JetStream buckets and their keys, the core NATS subjects, the JSON payloads
// that cross them, the HTTP payloads of enrollment, and the order of
// manifests.
//
// Every name that crosses the boundary is built and parsed here, and nowhere
// else. The package imports the standard library only, so that either side,
// and any tool, may import it.
//
// A device may use three kinds of subject and no other. <session> is the id of one
// run of its agent, see HeaderSession: whoever else has the device's key cannot
// name it, and so cannot listen.
//
//	fleet.v1.up.<id>.<kind>                 device → server
//	fleet.v1.down.<id>.<session>.<kind>     server → device, unasked
//	_INBOX_<id>_<session>.>                 server → device, replies to the session's requests
//
// Verbs lists the kinds.
//
// Devices never touch JetStream: the server's device API writes the buckets
// for them.
package wire
