package assigner

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/dirty"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// projectorWriters is how many keys are written at once.
	projectorWriters = 8
	// keyTimeout bounds one write.
	keyTimeout = 5 * time.Second
)

// projector writes the table to bucket desired-state. It is told which keys
// changed and reads their value from the table, so a key that changes often is
// written with its last value.
type projector struct {
	kv    jetstream.KeyValue
	table *assignment.Table
	log   *slog.Logger
	guard *guard.Guard
	// dirty keys wait to be written.
	dirty *dirty.Set[assignment.Key]

	mu sync.Mutex // guards open and done, and is held while keys are added or taken
	// open counts, for each Deployment, the keys that wait or are being written.
	open map[wire.DeploymentRef]int
	// done is closed, and replaced, whenever keys were written.
	done chan struct{}
}

func newProjector(kv jetstream.KeyValue, table *assignment.Table, metrics *reconcile.Metrics, log *slog.Logger) *projector {
	return &projector{
		kv: kv, table: table, log: log, guard: metrics.Loop("projector", log), dirty: dirty.NewSet[assignment.Key](),
		open: map[wire.DeploymentRef]int{}, done: make(chan struct{}),
	}
}

func (p *projector) add(keys []assignment.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.dirty.Add(keys...) {
		p.open[k.DeploymentRef]++
	}
}

// wait returns when no key of the Deployment waits to be written.
func (p *projector) wait(ctx context.Context, ref wire.DeploymentRef) error {
	for {
		p.mu.Lock()
		open, done := p.open[ref], p.done
		p.mu.Unlock()
		if open == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d keys of %s to leave bucket desired-state: %w", open, ref, ctx.Err())
		case <-done:
		}
	}
}

// run works until ctx ends.
func (p *projector) run(ctx context.Context) error {
	retry := backoff.NewExponentialBackOff()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.dirty.Wake():
		case <-timer.C:
		}
		if err := p.writeAll(ctx); err != nil && ctx.Err() == nil {
			delay := retry.NextBackOff()
			p.log.Warn("writing bucket desired-state", "error", err, "retry_in", delay)
			timer.Reset(delay)
			continue
		}
		retry.Reset()
	}
}

// writeAll writes every dirty key. Keys that failed are dirty again.
func (p *projector) writeAll(ctx context.Context) error {
	p.mu.Lock()
	keys := p.dirty.Take()
	p.mu.Unlock()
	var failed sync.Map
	var g errgroup.Group
	g.SetLimit(projectorWriters)
	for _, k := range keys {
		g.Go(func() error {
			err := p.guard.Try(func() error { return p.write(ctx, k) }, "key", k)
			if err != nil {
				failed.Store(k, true)
			}
			return err
		})
	}
	err := g.Wait()
	p.settle(keys, &failed)
	return err
}

func (p *projector) settle(keys []assignment.Key, failed *sync.Map) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range keys {
		if _, again := failed.Load(k); again && len(p.dirty.Return(k)) > 0 {
			continue
		}
		if p.open[k.DeploymentRef]--; p.open[k.DeploymentRef] == 0 {
			delete(p.open, k.DeploymentRef)
		}
	}
	close(p.done)
	p.done = make(chan struct{})
}

func (p *projector) write(ctx context.Context, k assignment.Key) error {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	key, err := wire.DesiredStateKey(k.Device, k.DeploymentRef)
	if err != nil {
		return err
	}
	entry, ok := p.table.Issued(k)
	if !ok {
		return bus.Remove(ctx, p.kv, key)
	}
	value, err := json.Marshal(entry)
	if err != nil {
		return fmt.Errorf("encoding entry %s: %w", k, err)
	}
	if _, err := p.kv.Put(ctx, key, value); err != nil {
		return fmt.Errorf("writing key %s: %w", k, err)
	}
	return nil
}
