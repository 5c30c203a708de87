// Package operator runs the control plane beside an existing Kubernetes and an existing NATS.
//
// It is what package embedserver is on a gateway, without what these two have already: no API
// server, no bus, no file that outlives the process. The authorities, the list of revoked keys
// and the term are in the operator's own namespace. Of several processes, one leads by a Lease
// and does all work; another takes over when it is gone. NATS keeps the connections of devices
// meanwhile, and the next leader lets them in anew.
package operator
