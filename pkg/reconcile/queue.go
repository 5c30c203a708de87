package reconcile

import (
	"time"

	"k8s.io/client-go/util/workqueue"
)

// Bounds of the pause before a key that failed is looked at again.
const minPause, maxPause = 50 * time.Millisecond, time.Minute

// Queue holds keys, each once, until a worker takes them.
type Queue[K comparable] struct {
	workqueue.TypedRateLimitingInterface[K]

	name    string
	metrics queueMetrics
}

// NewQueue returns an empty queue. Its metrics bear its name.
func NewQueue[K comparable](name string, m *Metrics) *Queue[K] {
	q := &Queue[K]{name: name, metrics: m.of(name)}
	// The workqueue gets no provider of metrics: with one, it wakes up twice a second.
	q.TypedRateLimitingInterface = workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[K](minPause, maxPause),
		workqueue.TypedRateLimitingQueueConfig[K]{DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[K]{
			Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[K]{Queue: &line[K]{metrics: q.metrics}}),
		})},
	)
	return q
}

// line holds what waits in a queue, which calls it under a lock of its own.
type line[K comparable] struct {
	waiting []waiting[K]
	metrics queueMetrics
}

type waiting[K comparable] struct {
	key   K
	since time.Time
}

// Touch implements workqueue.Queue.
func (*line[K]) Touch(K) {}

// Push implements workqueue.Queue.
func (l *line[K]) Push(key K) {
	l.waiting = append(l.waiting, waiting[K]{key, time.Now()})
	l.metrics.depth.Inc()
}

// Len implements workqueue.Queue.
func (l *line[K]) Len() int { return len(l.waiting) }

// Pop implements workqueue.Queue.
func (l *line[K]) Pop() K {
	first := l.waiting[0]
	l.waiting[0] = waiting[K]{} // the array holds it no longer
	l.waiting = l.waiting[1:]
	l.metrics.depth.Dec()
	l.metrics.latency.Observe(time.Since(first.since).Seconds())
	return first.key
}
