// Package clock is the server's idea of the time. Certificates and tokens live
// and die by the clock, and a gateway may have lost its battery, its NTP
// server, or both. So the wall clock is believed only as long as it agrees with
// what is known beside it: when the program was built, which time was seen
// last, and how much time passed since by the monotonic clock.
//
// The package belongs to the server; it imports the standard library,
// golang.org/x/sys and sibling leaf packages.
package clock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

const (
	// tolerance is how far the wall clock may be off. Slewing and time zones do
	// not move it; what sets the clock moves it by more, or harmlessly.
	tolerance = 5 * time.Minute
	// settling is how long after a start the clock may be set forward: a machine
	// without a battery learns the time from the network, after the server started.
	settling = 10 * time.Minute
	// maxAway is how long a server may have been switched off. After more, all its
	// certificates have expired, so that a wrong clock is as likely.
	maxAway = 365 * 24 * time.Hour

	checkInterval = 30 * time.Second
	saveInterval  = 10 * time.Minute
)

// ErrInsane is wrapped by every error about a clock that cannot be believed.
var ErrInsane = errors.New("the server's clock cannot be right")

// Source is where the time comes from.
type Source struct {
	// Wall is the wall clock.
	Wall func() time.Time
	// Elapsed is the time since some moment, which setting the clock does not
	// change.
	Elapsed func() time.Duration
}

// System is the clock of the machine. Elapsed counts the time that the machine
// was suspended: by Go's monotonic clock, waking up would be a jump.
var System = Source{
	Wall: time.Now,
	Elapsed: func() time.Duration {
		var t unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // cannot fail since Linux 2.6.39
		return time.Duration(t.Nano())
	},
}

// Clock tells the time, and whether it can be believed.
type Clock struct {
	source Source
	path   string
	built  time.Time

	mu sync.Mutex // guards the rest
	// good is the last time that was believed, at elapsed.
	good    time.Time
	elapsed time.Duration
	started time.Duration
	insane  error
}

// saved is the content of the file.
type saved struct {
	LastGood time.Time `json:"lastGood"`
}

// Open returns a clock that keeps the last good time in a file. built is when
// the program was built: it cannot be earlier than that. A file that is
// missing or damaged says nothing.
func Open(path string, built time.Time, source Source) *Clock {
	c := &Clock{source: source, path: path, built: built, started: source.Elapsed()}
	c.elapsed = c.started
	var s saved
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &s) == nil {
		c.good = s.LastGood
	}
	if c.good.Before(built) {
		c.good = built
		if wall := c.wall(); wall.After(built) { // nothing says how long it has been
			c.good = wall
		}
	}
	c.check()
	return c
}

// Now is the wall clock while it can be believed; else the last good time and
// what passed since.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.check()
}

// Sane returns nil while the wall clock can be believed; else an error that
// says in one line why not and what to do. It wraps ErrInsane.
func (c *Clock) Sane() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.check()
	return c.insane
}

// Accept believes the wall clock as it is. It cannot be before the program was
// built.
func (c *Clock) Accept() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := c.wall()
	if wall.Before(c.built) {
		return c.beforeBuilt(wall)
	}
	c.good, c.elapsed, c.insane = wall, c.source.Elapsed(), nil
	return c.save()
}

// Run writes the last good time down and tells of changes, until ctx ends.
func (c *Clock) Run(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	sane, next := true, c.source.Elapsed()
	for {
		err := c.Sane()
		switch {
		case err != nil && sane:
			log.Error("the clock cannot be right: no tokens and certificates are made", "error", err)
		case err == nil && !sane:
			log.Info("the clock is right again")
		}
		sane = err == nil
		if now := c.source.Elapsed(); sane && now >= next {
			next = now + saveInterval
			if err := c.keep(); err != nil {
				log.Warn("writing the last good time down", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *Clock) keep() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.save()
}

func (c *Clock) save() error {
	data, err := json.Marshal(saved{LastGood: c.good.UTC()})
	if err != nil {
		return err
	}
	return atomicfile.Write(c.path, append(data, '\n'), 0o600)
}

// check compares the wall clock with what is expected and returns the time to
// use. What is believed becomes what the next check expects.
func (c *Clock) check() time.Time {
	wall, elapsed := c.wall(), c.source.Elapsed()
	expected := c.good.Add(elapsed - c.elapsed)
	ahead := wall.Sub(expected)
	forward := tolerance
	if elapsed-c.started <= settling {
		forward = maxAway
	}
	switch {
	case wall.Before(c.built):
		c.insane = c.beforeBuilt(wall)
	case ahead < -tolerance:
		c.insane = fmt.Errorf("%w: it says %s, which is %s before what it said last: set the clock, or run fleet-server clock accept if it is right now",
			ErrInsane, stamp(wall), (-ahead).Round(time.Second))
	case ahead > forward:
		c.insane = fmt.Errorf("%w: it says %s, which is %s later than expected: set the clock, or run fleet-server clock accept if it is right now",
			ErrInsane, stamp(wall), ahead.Round(time.Second))
	default:
		c.good, c.elapsed, c.insane = wall, elapsed, nil
		return wall
	}
	return expected
}

func (c *Clock) beforeBuilt(wall time.Time) error {
	return fmt.Errorf("%w: it says %s, but this program was built at %s: set the clock", ErrInsane, stamp(wall), stamp(c.built))
}

// wall is the wall clock without the monotonic reading that time.Now adds.
func (c *Clock) wall() time.Time { return c.source.Wall().Round(0) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
