// Package plan decides for the driver of containers, and does nothing: which
// actions lead from the observed containers to the wanted ones, who may have a
// host port, and what to make of what runs.
//
// Every function is pure, so that the rules about what may be removed can be
// checked by property tests.
package plan
