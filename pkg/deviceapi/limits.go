package deviceapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// budget is a token bucket: messages a second, and how many at once.
type budget struct {
	rate  rate.Limit
	burst int
}

// strikes is how many messages over budget a device may send before its
// connection is dropped. A slow leak is forgiven, a flood is not.
var strikes = budget{rate: 10, burst: 1000}

// lines is how much the log says about what a device is refused: all of it is
// counted.
var lines = budget{rate: 0.1, burst: 5}

// verdict is what limits decide about a message.
type verdict int

const (
	pass verdict = iota
	// refuse: answer that the budget is used up.
	refuse
	// kick: drop the connection.
	kick
)

// limits holds the token buckets of every device.
type limits struct {
	mu      sync.Mutex // guards devices
	devices map[string]*deviceLimits
}

type deviceLimits struct {
	kinds   map[wire.Kind]*rate.Limiter
	strikes *rate.Limiter
	// kicked is when it was last dropped, and kickedSince when for the first time
	// in a row.
	kicked, kickedSince time.Time
	// answered is how many bytes it was sent since somebody looked whether it
	// reads them.
	answered int
	// lines bounds what the log says about its refusals.
	lines *rate.Limiter
}

const (
	// kickInterval is how often a device is dropped at most. What it sent before it
	// was dropped still comes, and must cost as little as possible: others wait
	// behind it.
	kickInterval = time.Second
	// lastingKicks is how long a flood lasts that dropping did not end, and
	// kickPause what ends a row of kicks.
	lastingKicks, kickPause = 5 * time.Second, 10 * time.Second
)

// dueKick reports whether a device that has to be dropped was not dropped just
// now, and whether that has not helped for a while.
func (l *limits) dueKick(device string) (due, lasting bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, now := l.devices[device], time.Now()
	if d == nil || now.Sub(d.kicked) < kickInterval {
		return false, false
	}
	if now.Sub(d.kicked) > kickPause {
		d.kickedSince = now
	}
	d.kicked = now
	return true, now.Sub(d.kickedSince) >= lastingKicks
}

func newLimits() *limits { return &limits{devices: map[string]*deviceLimits{}} }

// take takes a message of so many bytes from a device's budget for its kind. One
// that is too long counts as often as the longest one fits into it: the server
// had to carry it.
func (l *limits) take(device string, kind wire.Kind, bytes int) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.devices[device]
	if d == nil {
		d = &deviceLimits{
			kinds:   make(map[wire.Kind]*rate.Limiter, len(wire.Kinds)),
			strikes: rate.NewLimiter(strikes.rate, strikes.burst), lines: rate.NewLimiter(lines.rate, lines.burst),
		}
		l.devices[device] = d
	}
	limiter, verb := d.kinds[kind], kind.Verb()
	if limiter == nil {
		limiter = rate.NewLimiter(rate.Limit(verb.Rate), verb.Burst)
		d.kinds[kind] = limiter
	}
	now, cost := time.Now(), 1+max(0, bytes-1)/verb.MaxRequest
	switch {
	case limiter.AllowN(now, cost):
		return pass
	case d.strikes.AllowN(now, cost):
		return refuse
	}
	return kick
}

// lookEvery is after how many bytes of answers to look whether a device reads
// them: looking costs some microseconds.
const lookEvery = 1 << 20

// answer adds an answer of so many bytes. It reports whether to look.
func (l *limits) answer(device string, bytes int) (look bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.devices[device]
	if d == nil {
		return false
	}
	if d.answered += bytes; d.answered < lookEvery {
		return false
	}
	d.answered = 0
	return true
}

// line reports whether the log may say that a device is refused something.
func (l *limits) line(device string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.devices[device]
	return d != nil && d.lines.Allow()
}

// forget drops the buckets of a device that is gone. They are kept across a
// reconnect, so that reconnecting buys nothing.
func (l *limits) forget(device string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.devices, device)
}
