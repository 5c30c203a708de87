// Package pace bounds the bandwidth of what the agent fetches, by the time of day.
package pace

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound the bandwidth of pulls by the time of day. The first that covers a time counts.
type Limits []limit

// limit is one line: from and until are the time of the day, equal for the whole of it.
type limit struct {
	from, until time.Duration
	bytes       float64
}

var limitForm = regexp.MustCompile(`^(?:([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9]) )?([1-9][0-9]{0,9})(Ki|Mi|)$`)

// minLimit is the least limit in bytes a second: slower, a pull would take for days.
const minLimit = 4 << 10

// Parse reads lines of the form "[HH:MM-HH:MM ]BYTES", with Ki and Mi, in bytes a second.
func Parse(lines []string) (all Limits, err error) {
	for i, line := range lines {
		parts := limitForm.FindStringSubmatch(strings.TrimSpace(line))
		if parts == nil {
			return nil, fmt.Errorf("[%d]: %.60q is not of the form 512Ki or 08:00-18:00 512Ki, in bytes a second", i, line)
		}
		l := limit{from: dayTime(parts[1], parts[2]), until: dayTime(parts[3], parts[4])}
		n, _ := strconv.ParseFloat(parts[5], 64) // matched
		l.bytes = n * map[string]float64{"": 1, "Ki": 1 << 10, "Mi": 1 << 20}[parts[6]]
		if l.bytes < minLimit {
			return nil, fmt.Errorf("[%d]: %.60q is under %d bytes a second", i, line, minLimit)
		}
		all = append(all, l)
	}
	return all, nil
}

func dayTime(hours, minutes string) time.Duration {
	h, _ := strconv.Atoi(hours) // matched, or empty
	m, _ := strconv.Atoi(minutes)
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute
}

// at is the limit at a time; rate.Inf for none.
func (l Limits) at(now time.Time) rate.Limit {
	day := time.Duration(now.Hour())*time.Hour + time.Duration(now.Minute())*time.Minute
	for _, one := range l {
		within := day >= one.from && day < one.until
		if one.from > one.until { // over midnight
			within = day >= one.from || day < one.until
		}
		if within || one.from == one.until {
			return rate.Limit(one.bytes)
		}
	}
	return rate.Inf
}

// Piece is the most that may pass at a time, in bytes.
const Piece = 32 << 10

// Pace keeps to limits, everything together.
type Pace struct {
	limits Limits

	mu      sync.Mutex // guards limiter's limit
	limiter *rate.Limiter
}

// New returns a Pace.
func New(l Limits) *Pace { return &Pace{limits: l, limiter: rate.NewLimiter(rate.Inf, Piece)} }

// Wait waits until n bytes, a Piece at most, may pass, or until ctx ends.
func (p *Pace) Wait(ctx context.Context, n int) error {
	p.mu.Lock()
	if now := p.limits.at(time.Now()); now != p.limiter.Limit() {
		p.limiter.SetLimit(now)
	}
	p.mu.Unlock()
	return p.limiter.WaitN(ctx, n)
}
