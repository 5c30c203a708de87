// Package embedserver is fleet-server as one process: data directory, PKI, API
// server, broker, controllers and device API, started and stopped in order.
//
// Each part starts when what it needs is there, and stops before what it
// needs: data store, API server, broker (beside the API server), controllers,
// device API, enrollment listener.
package embedserver
