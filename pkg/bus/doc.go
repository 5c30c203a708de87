// Package bus is what the server asks of NATS, whichever NATS that is: the
// buckets of package wire, and the connections of devices.
//
// Package broker implements Connections with the NATS server that it embeds.
package bus
