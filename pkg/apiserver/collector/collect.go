package collector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"

	"fleet.nationtech.io/fleet/pkg/reconcile"
)

const (
	fieldManager = "fleet-garbage-collector"
	// anyKind stands for the kinds of objects in the metric of writes: those that users
	// define are as many as they like.
	anyKind = "any"
)

var (
	// errChanged: the object changed meanwhile; it is read again.
	errChanged = fmt.Errorf("the object changed meanwhile: %w", reconcile.ErrLater)
	// errUnknown: nothing can be said about an owner, so its dependents are kept.
	errUnknown = errors.New("nothing is known about the owner")
)

func (c *Collector) do(ctx context.Context, t task) error {
	if t.object != (object{}) {
		return c.collect(ctx, t.object)
	}
	return c.verify(ctx, t.owner)
}

// verify looks whether an owner is there. If it is gone or waits, its dependents
// are looked at.
func (c *Collector) verify(ctx context.Context, o owner) error {
	s, err := c.look(ctx, o)
	if errors.Is(err, errUnknown) || err == nil && s == present {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range c.graph.naming(o.uid) {
		c.queue.Add(task{object: d.object})
	}
	return nil
}

// state is how an owner is.
type state int

const (
	present state = iota + 1
	// waiting: it is deleted in the foreground.
	waiting
	absent
	// released: it was deleted, and its dependents are to outlive it.
	released
)

func (c *Collector) look(ctx context.Context, o owner) (state, error) {
	k, ok := c.kindOf(o.GroupKind)
	f, over := c.fateOf(o.uid)
	// An object without a namespace has no owner in one, whatever it says.
	if o.namespace == "" && (f.namespaced || k.Namespaced) {
		return 0, errUnknown
	}
	switch {
	case f.orphaned:
		return released, nil
	case over:
		return absent, nil
	case !ok:
		return 0, errUnknown
	}
	at := object{kind: k, name: o.name, uid: o.uid}
	if k.Namespaced {
		at.namespace = o.namespace
	}
	live, err := c.get(ctx, at)
	switch {
	case err != nil:
		return 0, err
	case live == nil:
		return absent, nil
	case waitsWith(live) == metav1.FinalizerDeleteDependents:
		return waiting, nil
	}
	return present, nil
}

// get returns the metadata of an object, or nil if it is gone.
func (c *Collector) get(ctx context.Context, o object) (*metav1.PartialObjectMetadata, error) {
	live, err := c.at(o).Get(ctx, o.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		return nil, nil
	case apierrors.IsNotFound(err): // the path is: the kind is not served at this moment
		return nil, fmt.Errorf("reading %s: %w", o, err)
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", o, err)
	case live.UID != o.uid:
		return nil, nil
	}
	return live, nil
}

func (c *Collector) at(o object) metadata.ResourceInterface {
	r := c.client.Resource(o.kind.GroupVersionResource)
	if o.kind.Namespaced {
		return r.Namespace(o.namespace)
	}
	return r
}

// String names the object in messages.
func (o object) String() string {
	name := o.name
	if o.namespace != "" {
		name = o.namespace + "/" + name
	}
	return o.kind.GroupResource().String() + " " + name
}

// collect deletes an object whose owners are gone, or ends its deletion.
func (c *Collector) collect(ctx context.Context, o object) error {
	live, err := c.get(ctx, o)
	if err != nil {
		return err
	}
	if live == nil {
		c.gone(o)
		return nil
	}
	switch waitsWith(live) {
	case metav1.FinalizerOrphanDependents:
		return c.orphan(ctx, o, live)
	case metav1.FinalizerDeleteDependents:
		return c.deleteDependents(ctx, o, live)
	}
	if !live.DeletionTimestamp.IsZero() {
		return nil
	}
	return c.collectUnowned(ctx, o, live)
}

// orphan removes the owner from its dependents, then lets it go.
func (c *Collector) orphan(ctx context.Context, o object, live *metav1.PartialObjectMetadata) error {
	c.fates.Add(o.uid, fate{o.kind.Namespaced, true})
	for _, d := range c.graph.dependentsOf(o) {
		dependent, err := c.get(ctx, d.object)
		if err != nil {
			return err
		}
		if dependent == nil {
			continue
		}
		if err := c.disown(ctx, d.object, dependent, func(r metav1.OwnerReference) bool { return r.UID == o.uid }); err != nil {
			return err
		}
	}
	return c.letGo(ctx, o, live, metav1.FinalizerOrphanDependents)
}

// deleteDependents has the dependents deleted, and lets the owner go when none of
// them blocks it any more.
func (c *Collector) deleteDependents(ctx context.Context, o object, live *metav1.PartialObjectMetadata) error {
	blocked := false
	for _, d := range c.graph.dependentsOf(o) {
		blocked = blocked || d.blocks(o)
		if !d.deleting {
			c.queue.Add(task{object: d.object})
		}
	}
	if blocked {
		return nil // it is looked at again when one of them is gone
	}
	return c.letGo(ctx, o, live, metav1.FinalizerDeleteDependents)
}

// collectUnowned deletes an object all of whose owners are gone. Owners that are
// gone beside others are removed from it.
func (c *Collector) collectUnowned(ctx context.Context, o object, live *metav1.PartialObjectMetadata) error {
	owners := map[state][]types.UID{}
	for _, r := range live.OwnerReferences {
		s, err := c.look(ctx, ownerOf(live.Namespace, r))
		if errors.Is(err, errUnknown) {
			return nil
		}
		if err != nil {
			return err
		}
		owners[s] = append(owners[s], r.UID)
	}
	among := func(states ...state) func(metav1.OwnerReference) bool {
		return func(r metav1.OwnerReference) bool {
			return slices.ContainsFunc(states, func(s state) bool { return slices.Contains(owners[s], r.UID) })
		}
	}
	switch {
	case len(owners[released]) > 0:
		return c.disown(ctx, o, live, among(released))
	case len(owners[present]) > 0:
		return c.disown(ctx, o, live, among(absent, waiting))
	case len(owners[waiting]) > 0:
		return c.deleteWaited(ctx, o, live)
	case len(owners[absent]) > 0:
		return c.delete(ctx, o, live, defaultPolicy(live))
	}
	return nil
}

// deleteWaited deletes an object whose owner waits for it: in the foreground, if it
// has dependents itself.
func (c *Collector) deleteWaited(ctx context.Context, o object, live *metav1.PartialObjectMetadata) error {
	dependents := c.graph.dependentsOf(o)
	if len(dependents) == 0 {
		return c.delete(ctx, o, live, defaultPolicy(live))
	}
	blocks := func(r metav1.OwnerReference) bool { return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion }
	waits := func(d node) bool { return d.waits == metav1.FinalizerDeleteDependents }
	if slices.ContainsFunc(live.OwnerReferences, blocks) && slices.ContainsFunc(dependents, waits) {
		return c.unblock(ctx, o, live) // in a circle, each would wait for the other
	}
	return c.delete(ctx, o, live, metav1.DeletePropagationForeground)
}

// defaultPolicy is what the finalizers of the object ask for.
func defaultPolicy(live *metav1.PartialObjectMetadata) metav1.DeletionPropagation {
	switch {
	case slices.Contains(live.Finalizers, metav1.FinalizerOrphanDependents):
		return metav1.DeletePropagationOrphan
	case slices.Contains(live.Finalizers, metav1.FinalizerDeleteDependents):
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

func (c *Collector) delete(ctx context.Context, o object, live *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	c.metrics.Wrote(anyKind, "garbage")
	err := c.at(o).Delete(ctx, o.name, metav1.DeleteOptions{
		PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion},
	})
	return written("deleting", o, err)
}

// disown removes owner references.
func (c *Collector) disown(ctx context.Context, o object, live *metav1.PartialObjectMetadata, which func(metav1.OwnerReference) bool) error {
	kept := slices.DeleteFunc(slices.Clone(live.OwnerReferences), which)
	if len(kept) == len(live.OwnerReferences) {
		return nil
	}
	return c.patch(ctx, o, live, "ownerReferences", kept)
}

// unblock makes that no owner waits for the object, which is then read again.
func (c *Collector) unblock(ctx context.Context, o object, live *metav1.PartialObjectMetadata) error {
	refs := slices.Clone(live.OwnerReferences)
	for i := range refs {
		refs[i].BlockOwnerDeletion = new(false)
	}
	if err := c.patch(ctx, o, live, "ownerReferences", refs); err != nil {
		return err
	}
	return errChanged
}

func (c *Collector) letGo(ctx context.Context, o object, live *metav1.PartialObjectMetadata, finalizer string) error {
	rest := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == finalizer })
	return c.patch(ctx, o, live, "finalizers", rest)
}

// patch writes one field of the version of the metadata that was read.
func (c *Collector) patch(ctx context.Context, o object, live *metav1.PartialObjectMetadata, field string, value any) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": live.UID, "resourceVersion": live.ResourceVersion, field: value,
	}})
	if err != nil {
		return fmt.Errorf("encoding a change of %s: %w", o, err)
	}
	c.metrics.Wrote(anyKind, "owner")
	_, err = c.at(o).Patch(ctx, o.name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: fieldManager})
	return written("changing", o, err)
}

// written tells what became of a write.
func written(verb string, o object, err error) error {
	switch {
	case err == nil, apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err):
		return errChanged
	}
	return fmt.Errorf("%s %s: %w", verb, o, err)
}
