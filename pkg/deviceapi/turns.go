package deviceapi

import (
	"context"
	"sync"
)

// turns lets devices take turns: work for a device waits behind other work for
// the same device, and behind one piece of each other device. In the order of
// coming, a device that uses its budget at once, as it may, would keep all
// others waiting for a second.
type turns struct {
	wake chan struct{}

	mu sync.Mutex // guards what follows
	// waiting is bounded by the budgets, which everything has passed.
	waiting map[string][]func()
	// next are the devices with work, in the order of their turns.
	next []string
}

func newTurns() *turns {
	return &turns{wake: make(chan struct{}, 1), waiting: map[string][]func(){}}
}

// add queues work for a device. It does not wait for it.
func (t *turns) add(device string, work func()) {
	t.mu.Lock()
	if len(t.waiting[device]) == 0 {
		t.next = append(t.next, device)
	}
	t.waiting[device] = append(t.waiting[device], work)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// run works until ctx ends.
func (t *turns) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		}
		for work := t.take(); work != nil && ctx.Err() == nil; work = t.take() {
			work()
		}
	}
}

// take returns the work of the device whose turn it is, nil when there is none.
func (t *turns) take() func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.next) == 0 {
		t.next = nil // what it grew to is let go
		return nil
	}
	device := t.next[0]
	t.next = t.next[1:]
	work := t.waiting[device][0]
	if rest := t.waiting[device][1:]; len(rest) > 0 {
		t.waiting[device] = rest
		t.next = append(t.next, device)
	} else {
		delete(t.waiting, device)
	}
	return work
}
