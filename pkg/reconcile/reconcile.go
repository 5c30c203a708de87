// Package reconcile is the work loop that the server's parts share: a queue of keys,
// and a function that brings what a key names up to date. The controllers and the
// API server import it.
package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"fleet.nationtech.io/fleet/pkg/guard"
)

// Func brings what the key names up to date. It is called again for the key
// after a pause that grows when it fails, and after the duration that it
// returns when that is not 0.
type Func[K comparable] func(ctx context.Context, key K) (again time.Duration, err error)

// ErrLater, wrapped, is why a Func wants to be called again that nobody needs to read:
// what it waits for is on its way.
var ErrLater = errors.New("try again later")

// Work calls f for each key of the queue until ctx ends, which shuts the queue
// down. A panic of f counts as an error of that key.
func Work[K comparable](ctx context.Context, queue *Queue[K], log *slog.Logger, f Func[K]) {
	defer context.AfterFunc(ctx, queue.ShutDown)()
	g := queue.metrics.panics.Loop(queue.name, log)
	for {
		key, shutdown := queue.Get()
		if shutdown {
			return
		}
		again, err := call(ctx, queue, g, key, f)
		switch {
		case err == nil:
			queue.Forget(key)
			if again > 0 {
				queue.AddAfter(key, again)
			}
		case ctx.Err() == nil:
			if !apierrors.IsConflict(err) && !errors.Is(err, ErrLater) {
				log.Warn("reconciling failed and is tried again", "queue", queue.name, "key", key, "error", err)
			}
			queue.metrics.retries.Inc()
			queue.AddRateLimited(key)
		}
		queue.Done(key)
	}
}

func call[K comparable](ctx context.Context, queue *Queue[K], g *guard.Guard, key K, f Func[K]) (again time.Duration, err error) {
	defer func(began time.Time) { queue.metrics.duration.Observe(time.Since(began).Seconds()) }(time.Now())
	err = g.Try(func() (err error) { again, err = f(ctx, key); return err }, "key", key)
	return again, err
}
