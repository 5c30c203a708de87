// Package natschart makes values for the official Helm chart of NATS, nats/nats, so that
// a NATS of several servers has the accounts, the limits and the TLS of the embedded one.
// It writes no manifest of NATS. The server's command line imports it.
package natschart

// Version is the version of the chart that the values are for.
const Version = "2.14.2"
