// Package queue runs a function for keys: one run at a time for each key,
// keys beside each other, with exponential back-off for keys that fail. It
// survives errors and panics of the function.
//
// One timer is set to the earliest deadline, so a queue in which nothing is
// due does nothing. It knows nothing of what the keys stand for.
package queue

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/dirty"
)

// Result says when a key has to run again.
type Result struct {
	// At is when the key runs again although nothing asks for it; zero is never.
	At time.Time
	// Done forgets the key.
	Done bool
}

// Run is one run of the function.
type Run struct {
	// Superseded is closed when Now was called for the key while it runs: what
	// the run does has become obsolete, and it runs again as soon as it ends.
	Superseded <-chan struct{}
}

// Queue runs Do for keys. The fields must be set before Run; use New for the
// defaults.
type Queue[K comparable] struct {
	// Do is called for one key at a time, and for several keys concurrently.
	Do func(ctx context.Context, key K, run Run) (Result, error)
	// MinBackoff and MaxBackoff bound the pause after a failure. It doubles with
	// each failure and loses up to half of itself at random.
	MinBackoff, MaxBackoff time.Duration
	// MinPace and MaxPace bound the time between two runs that Soon asks for. It
	// doubles with each failure, so that a key which fails and changes all the
	// time does not keep the device busy. Of a key that does not fail, Burst runs may
	// follow each other at once: then MinPace is the time between two on the average.
	MinPace, MaxPace time.Duration
	Burst            int
	Log              *slog.Logger

	mu    sync.Mutex // guards slots and their fields
	slots map[K]*slot
	wake  chan struct{}
}

type slot struct {
	due        time.Time // zero: not before it is asked for
	last       time.Time // when the last run ended
	rested     time.Time // when Burst runs may follow each other again
	failures   int
	running    bool
	superseded chan struct{}
	rerun      bool // asked for while running
}

// New returns a queue with the usual pauses.
func New[K comparable](log *slog.Logger, do func(ctx context.Context, key K, run Run) (Result, error)) *Queue[K] {
	return &Queue[K]{
		Do:         do,
		MinBackoff: time.Second,
		MaxBackoff: 5 * time.Minute,
		MinPace:    200 * time.Millisecond,
		MaxPace:    30 * time.Second,
		Burst:      10,
		Log:        log,
		slots:      map[K]*slot{},
		wake:       make(chan struct{}, 1),
	}
}

// Now runs a key at once and forgets its failures: what it stands for changed.
func (q *Queue[K]) Now(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.slot(key)
	s.failures = 0
	s.due = time.Now()
	if s.running {
		s.rerun = true
		if s.superseded != nil {
			close(s.superseded)
			s.superseded = nil
		}
	}
	q.signal()
}

// Soon runs a key as soon as its pace allows: something happened to it.
func (q *Queue[K]) Soon(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.slot(key)
	if s.running {
		s.rerun = true
		return
	}
	s.due = earliest(s.due, q.soonest(s))
	q.signal()
}

func (q *Queue[K]) slot(key K) *slot {
	s, ok := q.slots[key]
	if !ok {
		s = &slot{}
		q.slots[key] = s
	}
	return s
}

// soonest is when a key may run because something happened to it.
func (q *Queue[K]) soonest(s *slot) time.Time {
	if s.failures > 0 {
		return s.last.Add(doubled(q.MinPace, q.MaxPace, s.failures))
	}
	return latest(time.Now(), s.rested.Add(-time.Duration(q.Burst-1)*q.MinPace))
}

// doubled is low doubled n times, but not more than high.
func doubled(low, high time.Duration, n int) time.Duration {
	for ; n > 0 && low < high; n-- {
		low *= 2
	}
	return min(low, high)
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (q *Queue[K]) signal() { dirty.Signal(q.wake) }

// Run runs keys until ctx ends, then waits for those that run.
func (q *Queue[K]) Run(ctx context.Context) {
	var runs sync.WaitGroup
	defer runs.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if next := q.start(ctx, &runs); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		case <-timer.C:
		}
	}
}

// start starts what is due and returns the earliest deadline of the rest.
func (q *Queue[K]) start(ctx context.Context, runs *sync.WaitGroup) (next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for key, s := range q.slots {
		switch {
		case s.running || s.due.IsZero():
		case s.due.After(now):
			next = earliest(next, s.due)
		default:
			superseded := make(chan struct{})
			s.running, s.rerun, s.due, s.superseded = true, false, time.Time{}, superseded
			runs.Go(func() { q.run(ctx, key, Run{Superseded: superseded}) })
		}
	}
	return next
}

func (q *Queue[K]) run(ctx context.Context, key K, run Run) {
	result, err := q.guarded(ctx, key, run)
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.slots[key]
	s.running, s.superseded, s.last = false, nil, time.Now()
	s.rested = latest(s.rested, s.last).Add(q.MinPace)
	switch {
	case err != nil && ctx.Err() == nil:
		pause := doubled(q.MinBackoff, q.MaxBackoff, s.failures)
		pause -= rand.N(pause/2 + 1)
		s.failures++
		q.Log.Debug("run failed", "key", key, "failures", s.failures, "pause", pause, "error", err)
		s.due = earliest(earliest(s.due, s.last.Add(pause)), result.At)
	case err == nil:
		s.failures = 0
		s.due = earliest(s.due, result.At)
	}
	if s.rerun {
		s.due = earliest(s.due, q.soonest(s))
	}
	if result.Done && !s.rerun && s.due.IsZero() {
		delete(q.slots, key)
	}
	q.signal()
}

// guarded makes an error of a panic: one key must not end the others.
func (q *Queue[K]) guarded(ctx context.Context, key K, run Run) (result Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			q.Log.Error("run panicked", "key", key, "error", err, "stack", string(debug.Stack()))
		}
	}()
	return q.Do(ctx, key, run)
}
