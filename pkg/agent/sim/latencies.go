package sim

import (
	"slices"
	"sync"
	"time"
)

// What the devices of a Fleet measure.
const (
	// Enrolled is from the first request until a certificate is there.
	Enrolled = "enrolled"
	// Synced is from the start, or from the loss of a connection, until the server has
	// answered a snapshot request.
	Synced = "synced"
	// Applied is from the answer that had a new manifest until everything in it was
	// reported, without what Config.Delay makes of it.
	Applied = "applied"
)

// Latencies collects how long things took. The zero value is empty, and nil takes
// nothing. It is safe for concurrent use.
type Latencies struct {
	mu    sync.Mutex // guards times
	times map[string][]time.Duration
}

// Summary is what is known of a number of times.
type Summary struct {
	Count              int
	P50, P90, P99, Max time.Duration
}

// maxTimes bounds what is kept of one thing: eight bytes each.
const maxTimes = 1 << 20

// add takes how long something took. What is beyond maxTimes is not taken.
func (l *Latencies) add(what string, took time.Duration) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.times == nil {
		l.times = map[string][]time.Duration{}
	}
	if len(l.times[what]) < maxTimes {
		l.times[what] = append(l.times[what], took)
	}
}

// Of sums up what was taken of one thing.
func (l *Latencies) Of(what string) Summary {
	l.mu.Lock()
	times := slices.Clone(l.times[what])
	l.mu.Unlock()
	return summarize(times)
}

// summarize sorts times, and picks the percentiles: a time that so many of a hundred
// did not exceed.
func summarize(times []time.Duration) Summary {
	if len(times) == 0 {
		return Summary{}
	}
	slices.Sort(times)
	at := func(percent int) time.Duration { return times[(len(times)*percent+99)/100-1] }
	return Summary{Count: len(times), P50: at(50), P90: at(90), P99: at(99), Max: times[len(times)-1]}
}
