// Package reconcile is the work loop that the controllers share: a queue of
// keys, and a function that brings what a key names up to date. The controllers
// import it.
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
)

// Bounds of the pause before a key that failed is looked at again.
const minPause, maxPause = 50 * time.Millisecond, time.Minute

// Queue holds keys, each once, until a worker takes them.
type Queue[K comparable] = workqueue.TypedRateLimitingInterface[K]

// NewQueue returns an empty queue.
func NewQueue[K comparable]() Queue[K] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[K](minPause, maxPause))
}

// Func brings what the key names up to date. It is called again for the key
// after a pause that grows when it fails, and after the duration that it
// returns when that is not 0.
type Func[K comparable] func(ctx context.Context, key K) (again time.Duration, err error)

// Work calls f for each key of the queue until ctx ends, which shuts the queue
// down. A panic of f counts as an error of that key.
func Work[K comparable](ctx context.Context, queue Queue[K], log *slog.Logger, f Func[K]) {
	defer context.AfterFunc(ctx, queue.ShutDown)()
	for {
		key, shutdown := queue.Get()
		if shutdown {
			return
		}
		again, err := call(ctx, key, f)
		switch {
		case err == nil:
			queue.Forget(key)
			if again > 0 {
				queue.AddAfter(key, again)
			}
		case ctx.Err() == nil:
			if !apierrors.IsConflict(err) {
				log.Warn("reconciling failed and is tried again", "key", key, "error", err)
			}
			queue.AddRateLimited(key)
		}
		queue.Done(key)
	}
}

func call[K comparable](ctx context.Context, key K, f Func[K]) (again time.Duration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f(ctx, key)
}
