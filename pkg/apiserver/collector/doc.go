// Package collector deletes what belongs to owners that are gone, and ends
// deletions that wait for dependents, as Kubernetes' garbage collector does: its
// own is in k8s.io/kubernetes, which cannot be linked.
//
// An object names its owners in metadata.ownerReferences, by kind, name and UID. An
// owner is in the namespace of the object, or in none. An object whose owners are
// all gone is deleted (background). A deletion with --cascade=foreground leaves the
// owner until the dependents that block it are gone; one with --cascade=orphan
// removes the owner from its dependents. Both mark the owner with a finalizer, which
// this package removes.
//
// It follows the metadata of all kinds and keeps what it needs: objects that have
// owners, and those that wait. Whether an owner is gone is asked of the API, or is
// known from the event of its deletion; a kind that is not served tells nothing.
package collector
