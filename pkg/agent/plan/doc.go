// Package plan decides, and does nothing: which manifest to accept, what
// becomes of each Deployment, which actions lead from the observed containers
// to the wanted ones, who may have a host port, and what to report.
//
// Every function is pure, so that the rules about what may be removed can be
// checked by property tests.
package plan
