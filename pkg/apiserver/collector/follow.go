package collector

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

// pageSize bounds how much of a list is in memory at once.
const pageSize = 500

// follower lists and watches one kind, and keeps the graph in step.
type follower struct {
	*Collector
	kind Kind
	// tried is called when the kind was listed once, or could not be: one that cannot
	// be listed does not hold up the others.
	tried func()
}

// run follows the kind until ctx ends.
func (f *follower) run(ctx context.Context) {
	_ = f.guard.Keep(ctx, func(ctx context.Context) error { // it returns no error
		cache.NewReflectorWithOptions(f, &metav1.PartialObjectMetadata{}, f, cache.ReflectorOptions{Name: f.kind.String()}).RunWithContext(ctx)
		return nil
	})
}

func (f *follower) resource() metadata.Getter { return f.client.Resource(f.kind.GroupVersionResource) }

// IsWatchListSemanticsUnSupported keeps the reflector from asking for everything at
// once: a list in pages takes less memory.
func (f *follower) IsWatchListSemanticsUnSupported() bool { return true }

// ListWithContext returns the objects of the list that are kept.
func (f *follower) ListWithContext(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	defer f.tried()
	kept := &metav1.PartialObjectMetadataList{}
	for o := (metav1.ListOptions{Limit: pageSize}); ; {
		page, err := f.resource().List(ctx, o)
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			if item := &page.Items[i]; len(item.OwnerReferences) > 0 || waitsWith(item) != "" {
				item.ManagedFields = nil
				kept.Items = append(kept.Items, *item)
			}
		}
		if kept.ResourceVersion == "" {
			kept.ResourceVersion = page.ResourceVersion
		}
		if o.Continue = page.Continue; o.Continue == "" {
			return kept, nil
		}
	}
}

// List implements cache.ListerWatcher.
func (f *follower) List(o metav1.ListOptions) (runtime.Object, error) {
	return f.ListWithContext(context.Background(), o)
}

// WatchWithContext implements cache.ListerWatcherWithContext.
func (f *follower) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return f.resource().Watch(ctx, o)
}

// Watch implements cache.ListerWatcher.
func (f *follower) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return f.WatchWithContext(context.Background(), o)
}

// Add implements cache.ReflectorStore.
func (f *follower) Add(o any) error {
	if m, ok := o.(*metav1.PartialObjectMetadata); ok {
		f.guard.Do(func() { f.enqueue(f.graph.observe(f.kind, m)) }, "kind", f.kind.Kind, "object", m.Name)
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (f *follower) Update(o any) error { return f.Add(o) }

// Delete implements cache.ReflectorStore.
func (f *follower) Delete(o any) error {
	if m, ok := o.(*metav1.PartialObjectMetadata); ok {
		f.guard.Do(func() { f.gone(object{f.kind, m.Namespace, m.Name, m.UID}) }, "kind", f.kind.Kind, "object", m.Name)
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (f *follower) Replace(list []any, _ string) error {
	items := make([]*metav1.PartialObjectMetadata, 0, len(list))
	for _, o := range list {
		if m, ok := o.(*metav1.PartialObjectMetadata); ok {
			items = append(items, m)
		}
	}
	return f.guard.Try(func() error { f.enqueue(f.graph.replace(f.kind, items)); return nil }, "kind", f.kind.Kind)
}

// Resync implements cache.ReflectorStore.
func (f *follower) Resync() error { return nil }
