package device

import (
	"sync"
	"time"
)

// silence is how long a device may be quiet before it counts as gone: three
// heartbeat intervals.
const silence = 90 * time.Second

// Presence knows when each device was last heard of. It uses the monotonic
// clock, so setting the server's clock makes nobody appear gone. It implements
// deviceapi.Presence and bus.Observer.
type Presence struct {
	// changed is told the name of a device that came or went.
	changed func(device string)

	mu    sync.Mutex // guards what follows
	heard map[string]time.Time
	// known are the devices that were heard since the start.
	known   map[string]struct{}
	started time.Time
}

// NewPresence returns a Presence that has heard nobody yet.
func NewPresence() *Presence {
	return &Presence{heard: map[string]time.Time{}, known: map[string]struct{}{}, started: time.Now(), changed: func(string) {}}
}

// Heard records that a message of the device arrived.
func (p *Presence) Heard(device string) {
	p.mu.Lock()
	_, known := p.heard[device]
	p.heard[device] = time.Now()
	p.known[device] = struct{}{}
	changed := p.changed
	p.mu.Unlock()
	if !known {
		changed(device)
	}
}

// DeviceConnected implements bus.Observer. A connection alone is not
// enough: the device counts as there from its first message on.
func (p *Presence) DeviceConnected(string) {}

// DeviceDisconnected implements bus.Observer.
func (p *Presence) DeviceDisconnected(device string) {
	p.mu.Lock()
	delete(p.heard, device)
	changed := p.changed
	p.mu.Unlock()
	changed(device)
}

// state says whether a device is there. settled is false for a device that
// was not heard since the server started, but still may be.
func (p *Presence) state(device string) (last time.Time, present, settled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, present = p.heard[device]
	_, known := p.known[device]
	return last, present, known || time.Since(p.started) > silence
}

// sweep forgets the devices that have been silent for too long, and returns
// the time until the next one could be.
func (p *Presence) sweep() (next time.Duration) {
	p.mu.Lock()
	changed := p.changed
	var gone []string
	next = silence
	for device, last := range p.heard {
		quiet := time.Since(last)
		if quiet >= silence {
			gone = append(gone, device)
			delete(p.heard, device)
			continue
		}
		next = min(next, silence-quiet)
	}
	p.mu.Unlock()
	for _, device := range gone {
		changed(device)
	}
	return next
}

func (p *Presence) onChange(f func(device string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed = f
}
