package collector

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Kind is a kind of objects that is served.
type Kind struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
}

// groupKind is what owner references name a kind by, whatever the version.
func (k Kind) groupKind() schema.GroupKind { return schema.GroupKind{Group: k.Group, Kind: k.Kind} }

// object identifies one object. Another one of the same name has another UID.
type object struct {
	kind            Kind
	namespace, name string
	uid             types.UID
}

// owner identifies what a reference of an object in the namespace points to.
type owner struct {
	schema.GroupKind
	namespace, name string
	uid             types.UID
}

func ownerOf(namespace string, r metav1.OwnerReference) owner {
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil {
		gv = schema.GroupVersion{Version: r.APIVersion} // of no kind that is served
	}
	return owner{gv.WithKind(r.Kind).GroupKind(), namespace, r.Name, r.UID}
}

// task is one thing to look at: an object that may have to go or to be finished, or
// an owner that may be gone.
type task struct {
	object object
	owner  owner
}

// LogValue implements slog.LogValuer.
func (t task) LogValue() slog.Value {
	if t.object == (object{}) {
		return slog.StringValue(fmt.Sprintf("owner %s %s/%s", t.owner.GroupKind, t.owner.namespace, t.owner.name))
	}
	return slog.StringValue(t.object.String())
}

// node is what is kept of an object.
type node struct {
	object
	owners   []metav1.OwnerReference
	deleting bool
	// waits is the finalizer that the object waits with, or empty.
	waits string
}

func newNode(k Kind, o *metav1.PartialObjectMetadata) *node {
	n := &node{object: object{k, o.Namespace, o.Name, o.UID}, owners: o.OwnerReferences, deleting: !o.DeletionTimestamp.IsZero()}
	n.waits = waitsWith(o)
	return n
}

// waitsWith returns the finalizer of ours that an object which is being deleted
// has. Orphans come first: they are out of the reach of a deletion in the foreground.
func waitsWith(o *metav1.PartialObjectMetadata) string {
	if o.DeletionTimestamp.IsZero() {
		return ""
	}
	for _, f := range []string{metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents} {
		if slices.Contains(o.Finalizers, f) {
			return f
		}
	}
	return ""
}

// reference returns the reference of the object to an owner, or nil. One of another
// namespace, kind or name points elsewhere, whatever its UID.
func (n *node) reference(to object) *metav1.OwnerReference {
	for i, r := range n.owners {
		o := ownerOf(n.namespace, r)
		if o.uid == to.uid && o.name == to.name && o.GroupKind == to.kind.groupKind() && (!to.kind.Namespaced || o.namespace == to.namespace) {
			return &n.owners[i]
		}
	}
	return nil
}

// blocks reports whether the owner waits for the object in a deletion in the
// foreground.
func (n *node) blocks(owner object) bool {
	r := n.reference(owner)
	return r != nil && r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
}

// graph is who owns what. It is pure: each change returns what has to be looked at.
type graph struct {
	mu    sync.Mutex // guards what follows
	nodes map[types.UID]*node
	// dependents are the nodes that name a UID as their owner.
	dependents map[types.UID]map[types.UID]*node
}

func newGraph() *graph {
	return &graph{nodes: map[types.UID]*node{}, dependents: map[types.UID]map[types.UID]*node{}}
}

// observe takes what an object is now.
func (g *graph) observe(k Kind, o *metav1.PartialObjectMetadata) []task {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set(newNode(k, o))
}

func (g *graph) set(n *node) (tasks []task) {
	old := g.nodes[n.uid]
	g.unlink(old)
	if len(n.owners) > 0 || n.waits != "" {
		g.link(n)
	}
	if n.waits != "" {
		tasks = append(tasks, task{object: n.object})
	}
	if old == nil || !equality.Semantic.DeepEqual(old.owners, n.owners) {
		for _, r := range n.owners {
			tasks = append(tasks, task{owner: ownerOf(n.namespace, r)})
		}
	}
	if old != nil {
		tasks = append(tasks, g.waiting(old)...)
	}
	return append(tasks, g.waiting(n)...)
}

// remove takes that an object is gone.
func (g *graph) remove(uid types.UID) []task {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.drop(uid)
}

func (g *graph) drop(uid types.UID) (tasks []task) {
	for _, d := range g.dependents[uid] {
		tasks = append(tasks, task{object: d.object})
	}
	if n := g.nodes[uid]; n != nil {
		g.unlink(n)
		tasks = append(tasks, g.waiting(n)...)
	}
	return tasks
}

// replace takes the complete list of a kind. Owners that are not kept may have gone
// unnoticed, so each that is named is looked at.
func (g *graph) replace(k Kind, items []*metav1.PartialObjectMetadata) (tasks []task) {
	g.mu.Lock()
	defer g.mu.Unlock()
	listed := map[types.UID]bool{}
	for _, o := range items {
		listed[o.UID] = true
		tasks = append(tasks, g.set(newNode(k, o))...)
	}
	for uid, n := range g.nodes {
		if n.kind == k && !listed[uid] {
			tasks = append(tasks, g.drop(uid)...)
		}
	}
	for _, dependents := range g.dependents {
		for _, d := range dependents {
			for _, r := range d.owners {
				if o := ownerOf(d.namespace, r); o.GroupKind == k.groupKind() {
					tasks = append(tasks, task{owner: o})
				}
			}
		}
	}
	return tasks
}

// waiting are the owners of a node that wait for it.
func (g *graph) waiting(n *node) (tasks []task) {
	for _, r := range n.owners {
		if o := g.nodes[r.UID]; o != nil && o.waits != "" {
			tasks = append(tasks, task{object: o.object})
		}
	}
	return tasks
}

func (g *graph) link(n *node) {
	g.nodes[n.uid] = n
	for _, r := range n.owners {
		if g.dependents[r.UID] == nil {
			g.dependents[r.UID] = map[types.UID]*node{}
		}
		g.dependents[r.UID][n.uid] = n
	}
}

func (g *graph) unlink(n *node) {
	if n == nil {
		return
	}
	delete(g.nodes, n.uid)
	for _, r := range n.owners {
		delete(g.dependents[r.UID], n.uid)
		if len(g.dependents[r.UID]) == 0 {
			delete(g.dependents, r.UID)
		}
	}
}

// naming returns the nodes that name a UID as their owner, in no order.
func (g *graph) naming(uid types.UID) []node {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]node, 0, len(g.dependents[uid]))
	for _, d := range g.dependents[uid] {
		all = append(all, *d)
	}
	return all
}

// dependentsOf returns the nodes that the object owns, in no order.
func (g *graph) dependentsOf(o object) []node {
	return slices.DeleteFunc(g.naming(o.uid), func(d node) bool { return d.reference(o) == nil })
}
