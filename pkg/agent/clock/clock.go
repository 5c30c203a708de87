// Package clock is the time that certificates are checked by.
//
// A device without a battery starts in 1970, one with a bad battery may start
// ten years ahead. The clock is therefore the later of the system's and of the
// last time that was found good, and never earlier than the beginning of the
// device's own certificate. When a server's certificate is not valid at that
// time, the server is asked for its own, see Learn. From then on the clock runs
// by itself, whatever becomes of the system's.
package clock

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// savePause is the least time between two writes of the last good time: it
// wears out flash, and a clock that is some minutes late does no harm.
const savePause = 5 * time.Minute

// Keeper remembers the last good time over restarts; package store implements it.
type Keeper interface {
	// GoodTime is zero when there is none.
	GoodTime() time.Time
	SaveGoodTime(t time.Time) error
}

// Config is what a Clock is made of.
type Config struct {
	// System is the system's clock; nil for time.Now.
	System func() time.Time
	// Elapsed is the time since some moment, which no change of the system's
	// clock touches; nil for the real one.
	Elapsed func() time.Duration
	// Keeper may be nil: then nothing is remembered.
	Keeper Keeper
	// Log may be nil.
	Log *slog.Logger
}

// Clock is a clock. Its methods may be called concurrently.
type Clock struct {
	cfg Config

	mu    sync.Mutex // guards what follows
	floor time.Time
	// good was the time at the moment goodAt of Elapsed.
	good   time.Time
	goodAt time.Duration
	// learned: good is a server's signed time, and the system's counts no more.
	learned bool
	saved   time.Duration
}

// New returns a clock that begins with what cfg.Keeper remembers.
func New(cfg Config) *Clock {
	if cfg.System == nil {
		cfg.System = time.Now
	}
	if cfg.Elapsed == nil {
		start := time.Now()
		cfg.Elapsed = func() time.Duration { return time.Since(start) }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Clock{cfg: cfg, goodAt: cfg.Elapsed()}
	c.saved = c.goodAt - savePause
	if cfg.Keeper != nil {
		c.good = cfg.Keeper.GoodTime()
	}
	return c
}

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time {
	good := c.good
	if !good.IsZero() {
		good = good.Add(c.cfg.Elapsed() - c.goodAt)
	}
	if c.learned {
		return later(good, c.floor)
	}
	// Round: a reading of the monotonic clock would win in comparisons.
	return later(later(c.cfg.System().Round(0), good), c.floor)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// NotBefore tells the clock that it is at least t: the beginning of the device's
// own certificate.
func (c *Clock) NotBefore(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.floor = later(c.floor, t)
}

// Proven tells the clock that a server's certificate was valid now. The time is
// remembered, but not more often than every few minutes.
func (c *Clock) Proven() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cfg.Elapsed()-c.saved >= savePause {
		c.save(c.now())
	}
}

func (c *Clock) save(t time.Time) {
	if c.cfg.Keeper == nil {
		return
	}
	if err := c.cfg.Keeper.SaveGoodTime(t); err != nil {
		c.cfg.Log.Warn("the time is not remembered", "error", err)
		return
	}
	c.saved = c.cfg.Elapsed()
}

// set makes a server's signed time the clock's. It reports false for one that
// is before the beginning of the device's own certificate.
func (c *Clock) set(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Before(c.floor) {
		return false
	}
	c.good, c.goodAt, c.learned = t, c.cfg.Elapsed(), true
	c.save(t)
	return true
}

// Untimely reports whether an error says that a certificate is expired or not
// yet valid, which may be the fault of this device's clock.
func Untimely(err error) bool {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && invalid.Reason == x509.Expired
}
