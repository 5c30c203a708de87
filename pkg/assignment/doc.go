// Package assignment says what should run where: a pure core without I/O.
//
// A Table takes what is known of Devices and Deployments and what devices report,
// and answers with manifests, bodies, keys of bucket desired-state, and the counts
// of each Deployment. What a change of it asks to be carried out, it returns as
// Changes. Package controllers/assigner feeds it and carries them out.
//
// A change costs what it touches. An index leads from labels to the devices that
// have them and to the Deployments that mention them, each Deployment is counted as
// its devices change, and what many devices share is stored once and named by a
// number.
//
// The table is the truth about manifests while the process runs; the bucket is
// its projection. A bus that is slow, full or damaged delays the projection
// and no device.
package assignment
