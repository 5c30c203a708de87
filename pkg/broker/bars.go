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
	mu       sync.Mutex // guards what follows
	byDevice map[string]bar
	// bySession has "DEVICE SESSION" and until when that session may not connect.
	bySession map[string]time.Time
}

type bar struct {
	until time.Time
	// but is the one session that may connect; empty for none.
	but string
}

func newBars() *bars { return &bars{byDevice: map[string]bar{}, bySession: map[string]time.Time{}} }

// add bars all sessions of a device, or all but one.
func (b *bars) add(device, but string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.byDevice) >= maxBars {
		clear(b.byDevice) // a moment of generosity
	}
	if before, barred := b.byDevice[device]; barred && before.but == "" && time.Now().Before(before.until) {
		but = ""
	}
	b.byDevice[device] = bar{time.Now().Add(barTime), but}
}

// addSession bars one session of a device.
func (b *bars) addSession(device, session string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.bySession) >= maxBars {
		clear(b.bySession) // as in add
	}
	b.bySession[device+" "+session] = time.Now().Add(barTime)
}

// has reports whether a session of a device is barred, and forgets what has
// ended.
func (b *bars) has(device, session string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hasSession(device+" "+session) || b.hasDevice(device, session)
}

// hasSession and hasDevice: the caller holds mu.
func (b *bars) hasSession(key string) bool {
	until, barred := b.bySession[key]
	if barred && time.Now().After(until) {
		delete(b.bySession, key)
		return false
	}
	return barred
}

func (b *bars) hasDevice(device, session string) bool {
	found, barred := b.byDevice[device]
	if barred && time.Now().After(found.until) {
		delete(b.byDevice, device)
		return false
	}
	return barred && found.but != session // no session is ""
}

// Bar implements bus.Connections, for a device that floods the bus.
func (b *Broker) Bar(device string) {
	b.bars.add(device, "")
	b.Drop(device)
}

// BarStrays implements bus.Connections.
func (b *Broker) BarStrays(device string) {
	current := b.sessions.currentOf(device)
	if current != "" {
		b.bars.add(device, current)
	}
	b.sessions.drop(b.sessions.ids(device, func(c connection) bool { return current == "" || c.session != current }))
}

// BarSession implements bus.Connections.
func (b *Broker) BarSession(device, session string) {
	b.bars.addSession(device, session)
	b.sessions.drop(b.sessions.ids(device, func(c connection) bool { return c.session == session }))
}

// barID is Bar for the device of a connection, or BarStrays.
func (b *Broker) barID(id uint64) {
	device, known := b.sessions.deviceOf(id)
	switch {
	case !known:
		b.sessions.disconnect(id)
	case b.sessions.isSurplus(device, id):
		b.BarStrays(device)
	default:
		b.Bar(device)
	}
}

// deviceOf names the device of a connection.
func (s *sessions) deviceOf(id uint64) (device string, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	device, known = s.byID[id]
	return device, known
}
