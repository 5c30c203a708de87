// Package convert translates compose projects and Pods of Kubernetes into scores of PodmanV0.
//
// Nothing is dropped in silence: a translator takes what it understands out of a copy of its
// input, and whatever is left in the end, fields of later versions of the formats included, is
// reported as a Loss. The package decides only: it reads files through the functions that it
// is given. cmd/fleet-server imports it.
package convert
