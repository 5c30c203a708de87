// Package reconcile is the work loop that the controllers share: a queue of
// keys, and a function that brings what a key names up to date. The controllers
// import it.
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Func brings what the key names up to date. It is called again for the key
// after a pause that grows when it fails, and after the duration that it
// returns when that is not 0.
type Func[K comparable] func(ctx context.Context, key K) (again time.Duration, err error)

// Work calls f for each key of the queue until ctx ends, which shuts the queue
// down. A panic of f counts as an error of that key.
func Work[K comparable](ctx context.Context, queue *Queue[K], log *slog.Logger, f Func[K]) {
	defer context.AfterFunc(ctx, queue.ShutDown)()
	for {
		key, shutdown := queue.Get()
		if shutdown {
			return
		}
		again, err := call(ctx, queue, log, key, f)
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
			queue.metrics.retries.Inc()
			queue.AddRateLimited(key)
		}
		queue.Done(key)
	}
}

func call[K comparable](ctx context.Context, queue *Queue[K], log *slog.Logger, key K, f Func[K]) (again time.Duration, err error) {
	began := time.Now()
	defer func() {
		queue.metrics.duration.Observe(time.Since(began).Seconds())
		if p := recover(); p != nil {
			queue.metrics.panics.Inc()
			err = fmt.Errorf("panic: %v", p)
			// Its stack says nothing new the next time, and it may come back for ever.
			if _, reported := queue.places.LoadOrStore(place(), true); !reported {
				log.Error("a mistake in the program", "queue", queue.name, "key", key, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			}
		}
	}()
	return f(ctx, key)
}

// place is the line of the program that a deferred function recovers a panic of.
func place() string {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(0, callers)])
	for panicking := false; ; {
		frame, more := frames.Next()
		if panicking && !strings.HasPrefix(frame.Function, "runtime.") || !more {
			return fmt.Sprintf("%s:%d", frame.File, frame.Line)
		}
		panicking = panicking || frame.Function == "runtime.gopanic"
	}
}
