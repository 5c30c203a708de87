package fleetload

import (
	"sync"
	"time"
)

// mostOfPart is how many devices at the beginning and at the end are compared, at most.
const mostOfPart = 500

// pace notes when each of a number of things was done.
type pace struct {
	begin time.Time

	mu sync.Mutex // guards at
	at []time.Time
}

func startPace() *pace { return &pace{begin: time.Now()} }

// one notes that one more is done.
func (p *pace) one() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = append(p.at, time.Now())
}

// rates are how many of the first and of the last part were done each second, 0 when a part
// has none. There are at least twice as many as a part has.
func (p *pace) rates(part int) (first, last float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if part == 0 {
		return 0, 0
	}
	n := len(p.at)
	rate := func(d time.Duration) float64 { return float64(part) / d.Seconds() }
	return rate(p.at[part-1].Sub(p.begin)), rate(p.at[n-1].Sub(p.at[n-1-part]))
}
