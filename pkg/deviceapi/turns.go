package deviceapi

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"

	"fleet.nationtech.io/fleet/pkg/guard"
)

// After each piece of work a device rests, so that one that uses its budget at
// once, as it may, leaves most of the server to others.
const (
	// restShare is how many times as long as its work took a device rests.
	restShare = 3
	// maxRest bounds that: on a slow disk a device has waited long enough.
	maxRest = 10 * time.Millisecond
)

// turns lets devices take turns: work for a device waits behind other work for
// the same device, and behind one piece of each other device. In the order of
// coming, a device that uses its budget at once would keep all others waiting
// for a second.
type turns struct {
	// next are the devices in the order of their turns.
	next workqueue.TypedDelayingInterface[string]
	loop *guard.Guard

	mu sync.Mutex // guards waiting
	// waiting is the work of each device that is in next or whose work is being
	// done. The budgets, which everything has passed, bound it.
	waiting map[string][]func()
}

func newTurns(loop *guard.Guard) *turns {
	return &turns{loop: loop, next: workqueue.NewTypedDelayingQueue[string](), waiting: map[string][]func(){}}
}

// add queues work for a device. It does not wait for it.
func (t *turns) add(device string, work func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.waiting[device]; !known {
		t.next.Add(device)
	}
	t.waiting[device] = append(t.waiting[device], work)
}

// run works until ctx ends. It is called once.
func (t *turns) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, t.next.ShutDown)
	defer func() {
		stop()
		t.next.ShutDown() // the end of ctx may be seen here before it is there
	}()
	for {
		device, shutdown := t.next.Get()
		if shutdown || ctx.Err() != nil {
			return
		}
		if work := t.take(device); work != nil {
			begin := time.Now()
			t.loop.Do(work, "device", device)
			t.next.AddAfter(device, min(restShare*time.Since(begin), maxRest))
		}
		t.next.Done(device)
	}
}

// take returns a device's next piece of work. A device without any is forgotten,
// which is when it has rested: else one that sends piece by piece would never
// rest.
func (t *turns) take(device string) func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	work := t.waiting[device]
	if len(work) == 0 {
		delete(t.waiting, device)
		return nil
	}
	t.waiting[device] = work[1:]
	return work[0]
}
