package main

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestGarbageOfABusyServer(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{
		0: 200, 10 << 20: 200, 48 << 20: 200, 60 << 20: 150, 96 << 20: 100, 120 << 20: 75, 192 << 20: gcPercent, 4 << 30: gcPercent,
	} {
		if got := percentOf(live); got != want {
			t.Errorf("%d MiB: %d %%, want %d %%", live>>20, got, want)
		}
	}
}

// A collection now and then leaves everything as it is; many of them give the heap room,
// until there are no more.
func TestCollectionsArePaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var set []int
		live := uint64(48 << 20)
		p := &pacer{set: func(percent int) { set = append(set, percent) }, live: func() uint64 { return live }, percent: gcPercent}
		collect := func(after time.Duration) {
			time.Sleep(after)
			p.collected(time.Now())
		}
		expect := func(want ...int) {
			t.Helper()
			synctest.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			if !slices.Equal(set, want) {
				t.Errorf("it was set to %v, want %v", set, want)
			}
		}
		collect(0)
		collect(time.Minute)
		collect(busyWithin)
		expect()
		collect(time.Second)
		collect(time.Second)
		expect(200)
		live = 96 << 20
		collect(time.Second)
		expect(200, 100)
		collect(busyFor - time.Second)
		expect(200, 100)
		time.Sleep(busyFor)
		expect(200, 100, gcPercent)
		collect(time.Minute)
		expect(200, 100, gcPercent)
	})
}
