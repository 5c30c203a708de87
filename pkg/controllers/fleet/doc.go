// Package fleet matches Deployments to Devices.
//
// Table is the pure core: it holds what should run where, and what devices
// report. Controller feeds it from the API and from bucket device-state, and
// carries its changes out: manifests for the device API, keys of bucket
// desired-state, nudges, and the status of each Deployment.
//
// The table is the truth about manifests while the process runs; the bucket is
// its projection. A bus that is slow, full or damaged delays the projection
// and no device.
package fleet
