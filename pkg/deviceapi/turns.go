package deviceapi

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"

	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/wire"
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
	// waiting is what waits for each device that is in next or whose work is being
	// done. Budgets bound what comes, but not how long it takes to do it, so that
	// this is bounded, too.
	waiting map[string]*line
}

// line is what waits for one device.
type line struct {
	pieces []piece
	// own counts the pieces that are the device's own.
	own int
}

// piece is one thing to do.
type piece struct {
	do func()
	// own: the current session asked for it, and has the budget. All else is a refusal,
	// or for a session that may be of a copy of the device.
	own bool
}

func newTurns(loop *guard.Guard) *turns {
	return &turns{loop: loop, next: workqueue.NewTypedDelayingQueue[string](), waiting: map[string]*line{}}
}

const (
	// maxOwn is as many as the budget of any kind lets through at once.
	maxOwn = 2 * wire.MaxEntries
	// maxOther is more, so that a flood is told what it is until it is cut off, and
	// beside that, as it may be of a copy of the device.
	maxOther = 2 * maxOwn
)

// add queues work for a device, and does not wait for it. It reports false when too
// much is waiting for the device already.
func (t *turns) add(device string, p piece) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.waiting[device]
	switch {
	case l == nil:
		l = &line{}
		t.waiting[device] = l
		t.next.Add(device)
	case p.own && l.own >= maxOwn, !p.own && len(l.pieces)-l.own >= maxOther:
		return false
	}
	if p.own {
		l.own++
	}
	l.pieces = append(l.pieces, p)
	return true
}

// run works until ctx ends. Several may run at a time: those for one device wait for
// each other.
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
		t.loop.Do(func() { t.turn(device) }, "device", device)
	}
}

// turn does a device's next piece of work. Whatever becomes of that, the device has its next
// turn.
func (t *turns) turn(device string) {
	defer t.next.Done(device)
	work := t.take(device)
	if work == nil {
		return
	}
	defer func(begin time.Time) { t.next.AddAfter(device, min(restShare*time.Since(begin), maxRest)) }(time.Now())
	work()
}

// take returns a device's next piece of work. A device without any is forgotten,
// which is when it has rested: else one that sends piece by piece would never
// rest.
func (t *turns) take(device string) func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.waiting[device]
	if l == nil || len(l.pieces) == 0 {
		delete(t.waiting, device)
		return nil
	}
	next := l.pieces[0]
	l.pieces[0] = piece{} // the array lives on
	l.pieces = l.pieces[1:]
	if next.own {
		l.own--
	}
	return next.do
}
