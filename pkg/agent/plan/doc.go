// Package plan decides for the agent, and does nothing: which manifest to accept,
// what becomes of each Deployment, and what to report of it. How a Deployment
// gets there is up to the drivers, see package workload.
//
// Every function is pure, so that the rules about what may be removed can be
// checked by property tests.
package plan
