package reconcile

import "k8s.io/client-go/tools/cache"

// Changes returns a handler that calls changed with the key of an object that is
// new, gone, or another than before. differs says what counts: a controller whose
// own writes do not differ gets no work from them.
func Changes[T any](differs func(old, now T) bool, changed func(key string)) cache.ResourceEventHandler {
	tell := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			changed(key)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: tell,
		UpdateFunc: func(old, now any) {
			if differs(old.(T), now.(T)) {
				tell(now)
			}
		},
		DeleteFunc: tell,
	}
}
