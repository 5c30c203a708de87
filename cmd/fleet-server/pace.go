package main

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// busyWithin is how soon a collection follows another one while the server is busy,
	// busyFor how long it counts as busy after that.
	busyWithin, busyFor = 2 * time.Second, 10 * time.Second
	// busyGarbage is how much garbage a busy server may have, in bytes, where gcPercent
	// would let it have less.
	busyGarbage = 96 << 20
	// mostGCPercent bounds what that makes of a small heap.
	mostGCPercent = 200
)

// pacer lets a busy server with a small heap have more garbage than an idle one: while
// devices enroll, collections took 28 % of the processor time with gcPercent, and come a
// quarter as often. From 192 MB that are live on it changes nothing, so that it makes no
// peak higher that counts.
type pacer struct {
	set  func(percent int)
	live func() uint64

	mu      sync.Mutex // guards what follows
	last    time.Time
	percent int
	idle    *time.Timer
}

// paceCollections begins to pace. It costs nothing while nothing is collected.
func paceCollections(set func(percent int)) {
	p := &pacer{set: set, live: liveHeap, percent: gcPercent}
	p.await()
}

// await calls collected after the next collection, and so on. What it allocates is found
// to be garbage by that collection.
func (p *pacer) await() {
	runtime.AddCleanup(&struct{ sentinel [16]byte }{}, func(p *pacer) {
		p.collected(time.Now())
		p.await()
	}, p)
}

// collected takes the time of a collection.
func (p *pacer) collected(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	busy := at.Sub(p.last) < busyWithin
	p.last = at
	if !busy {
		return // if it was, the timer sees to the end of it
	}
	p.change(percentOf(p.live()))
	if p.idle == nil {
		p.idle = time.AfterFunc(busyFor, p.rest)
		return
	}
	p.idle.Reset(busyFor)
}

// rest ends a busy time.
func (p *pacer) rest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.change(gcPercent)
}

// change is called with mu held. To set the percentage stops the program for a moment.
func (p *pacer) change(percent int) {
	if percent != p.percent {
		p.percent = percent
		p.set(percent)
	}
}

// percentOf is the percentage for so much that is live, in steps, so that it seldom changes.
func percentOf(live uint64) int {
	const step = 25
	percent := busyGarbage * 100 / max(live, 1) / step * step
	return int(min(mostGCPercent, max(gcPercent, percent)))
}

// liveHeap is what the last collection found to be live, in bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return busyGarbage * 100 / gcPercent // not known: nothing changes
	}
	return sample[0].Value.Uint64()
}
