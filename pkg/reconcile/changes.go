package reconcile

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/guard"
)

// WithoutManagedFields is a cache.TransformFunc for informers: who manages which field
// takes as much memory as the rest of an object. The API keeps what it knows when an
// object comes without.
func WithoutManagedFields(o any) (any, error) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
	return o, nil
}

// Changes returns a handler that calls changed with the key of an object that is
// new, gone, or another than before. differs says what counts: a controller whose
// own writes do not differ gets no work from them. A panic of differs costs no change.
func Changes[T any](differs func(old, now T) bool, changed func(key string)) cache.ResourceEventHandler {
	tell := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			changed(key)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: tell,
		UpdateFunc: func(old, now any) {
			is := true // whatever differs makes of it
			defer func() {
				if is {
					tell(now)
				}
			}()
			is = differs(old.(T), now.(T))
		},
		DeleteFunc: tell,
	}
}

// Guarded returns a handler that calls another one. A change that its mistake costs is
// missed; the informer goes on.
func Guarded(g *guard.Guard, h cache.ResourceEventHandler) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc:    func(o any, initial bool) { g.Do(func() { h.OnAdd(o, initial) }) },
		UpdateFunc: func(old, now any) { g.Do(func() { h.OnUpdate(old, now) }) },
		DeleteFunc: func(o any) { g.Do(func() { h.OnDelete(o) }) },
	}
}
