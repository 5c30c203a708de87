// Package wire is the contract between fleet-server and fleet-agent: the
// JetStream buckets and their keys, the core NATS subjects, the JSON payloads
// that cross them, the HTTP payloads of enrollment, and the order of
// manifests.
//
// Every name that crosses the boundary is built and parsed here, and nowhere
// else. The package imports the standard library only, so that either side,
// and any tool, may import it.
//
// A device may use three kinds of subject and no other:
//
//	fleet.v1.up.<id>.<kind>      device → server, see Kind
//	fleet.v1.down.<id>.nudge     server → device, empty: "ask for a snapshot"
//	_INBOX_<id>.>                server → device, replies to the device's requests
//
// Devices never touch JetStream: the server's device API writes the buckets
// for them.
package wire
