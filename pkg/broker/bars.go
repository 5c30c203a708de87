package broker

import (
	"sync"
	"time"
)

const (
	// barTime is how long a device that was dropped for a flood stays out. What it
	// sent before has to be worked off by then, at the cost of others: a device
	// that could come back at once would keep them waiting for ever.
	barTime = 30 * time.Second
	// maxBars bounds what is remembered; only devices that flood are in it.
	maxBars = 4096
)

// bars knows the devices that may not connect for a while.
type bars struct {
	mu    sync.Mutex // guards until
	until map[string]time.Time
}

func newBars() *bars { return &bars{until: map[string]time.Time{}} }

func (b *bars) add(device string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.until) >= maxBars {
		clear(b.until) // a moment of generosity
	}
	b.until[device] = time.Now().Add(barTime)
}

// has reports whether a device is barred, and forgets it when it is no more.
func (b *bars) has(device string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	until, barred := b.until[device]
	if barred && time.Now().After(until) {
		delete(b.until, device)
		return false
	}
	return barred
}

// Bar ends every connection of a device that floods the bus, and lets it in
// again after a while.
func (b *Broker) Bar(device string) {
	b.bars.add(device)
	b.Disconnect(device)
}

// barID is Bar for the device of a connection.
func (b *Broker) barID(id uint64) {
	// What a copy of a device does is not held against the device.
	if device, known := b.sessions.deviceOf(id); known && !b.sessions.isSurplus(device, id) {
		b.Bar(device)
		return
	}
	b.sessions.disconnect(id)
}

// deviceOf names the device of a connection.
func (s *sessions) deviceOf(id uint64) (device string, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	device, known = s.byID[id]
	return device, known
}
