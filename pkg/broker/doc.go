// Package broker embeds the NATS server: its options, accounts,
// authentication and the buckets of package wire.
//
// There are four accounts. DEV is where devices live: core NATS only, each
// device confined to its own subjects. CORE has JetStream and the buckets; the
// server's own parts use it through connections inside the process. READ is
// where operators look at the buckets: requests that read are taken to CORE,
// and whatever they name as their reply stays in READ. SYS is
// NATS's system account. Devices come in over mutual TLS; the connections
// inside the process authenticate with a secret that is new at each start.
package broker
