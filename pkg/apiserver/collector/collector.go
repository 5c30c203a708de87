package collector

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/utils/lru"

	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/reconcile"
)

const (
	workers = 4
	// maxFates is how many owners that went lately are remembered.
	maxFates = 4096
)

// fate is what became of an owner.
type fate struct {
	namespaced bool
	// orphaned: its dependents outlive it, also one that is only seen afterwards.
	orphaned bool
}

// Collector collects garbage.
type Collector struct {
	client metadata.Interface
	log    *slog.Logger
	graph  *graph
	queue  *reconcile.Queue[task]
	guard  *guard.Guard
	// metrics count the writes.
	metrics *reconcile.Metrics
	// fates is safe for concurrent use.
	fates *lru.Cache

	mu        sync.Mutex // guards what follows
	kinds     map[schema.GroupKind]Kind
	following map[Kind]context.CancelFunc
	running   context.Context
	// listing are the kinds that were not listed yet when it began to run.
	listing sync.WaitGroup
}

// New returns a collector that does not run yet.
func New(client metadata.Interface, metrics *reconcile.Metrics, log *slog.Logger) *Collector {
	return &Collector{
		client: client, log: log, graph: newGraph(),
		queue: reconcile.NewQueue[task]("garbage", metrics), guard: metrics.Loop("garbage-watch", log), metrics: metrics, fates: lru.New(maxFates),
		kinds: map[schema.GroupKind]Kind{}, following: map[Kind]context.CancelFunc{},
	}
}

// Run works until ctx ends. It begins with the kinds that it was given until then,
// once each of them has been listed.
func (c *Collector) Run(ctx context.Context) {
	c.mu.Lock()
	c.running = ctx
	c.follow(c.listing.Add)
	c.mu.Unlock()
	c.listing.Wait()
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			reconcile.Work(ctx, c.queue, c.log, func(ctx context.Context, t task) (time.Duration, error) { return 0, c.do(ctx, t) })
		})
	}
	working.Wait()
}

// Stop ends a collector that never runs.
func (c *Collector) Stop() { c.queue.ShutDown() }

// SetKinds says what is served from now on.
func (c *Collector) SetKinds(kinds []Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kinds = map[schema.GroupKind]Kind{}
	for _, k := range kinds {
		c.kinds[k.groupKind()] = k
	}
	for k, stop := range c.following {
		if !slices.Contains(kinds, k) {
			stop()
			delete(c.following, k)
			c.enqueue(c.graph.replace(k, nil))
		}
	}
	if c.running != nil {
		c.follow(func(int) {})
	}
}

// follow follows the kinds that are not followed yet. c.mu is held.
func (c *Collector) follow(count func(int)) {
	for _, k := range c.kinds {
		if c.following[k] != nil {
			continue
		}
		ctx, stop := context.WithCancel(c.running)
		c.following[k] = stop
		count(1)
		tried := sync.OnceFunc(func() { count(-1) })
		f := &follower{Collector: c, kind: k, tried: tried}
		go func() {
			defer tried()
			f.run(ctx)
		}()
	}
}

func (c *Collector) kindOf(gk schema.GroupKind) (Kind, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.kinds[gk]
	return k, ok
}

// gone takes that an object was deleted.
func (c *Collector) gone(o object) {
	tasks := c.graph.remove(o.uid)
	if _, known := c.fateOf(o.uid); !known && len(tasks) > 0 {
		c.fates.Add(o.uid, fate{namespaced: o.kind.Namespaced})
	}
	c.enqueue(tasks)
}

func (c *Collector) fateOf(uid types.UID) (fate, bool) {
	f, ok := c.fates.Get(uid)
	if !ok {
		return fate{}, false
	}
	return f.(fate), true
}

func (c *Collector) enqueue(tasks []task) {
	for _, t := range tasks {
		c.queue.Add(t)
	}
}
