package roster

import (
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// bucket is a token bucket that is full at first. It is the time at which it will
// be full again, and nothing else: each device has a dozen of them.
type bucket struct{ full time.Time }

// rate is what a bucket gets a second, and how much it holds.
type rate struct {
	rate  float64
	burst int
}

// take takes n from the bucket, or nothing when it has less.
func (b *bucket) take(r rate, n int, now time.Time) bool {
	each := float64(time.Second) / r.rate
	full := b.full
	if full.Before(now) {
		full = now
	}
	full = full.Add(time.Duration(float64(n) * each))
	if full.Sub(now) > time.Duration(float64(r.burst)*each) {
		return false
	}
	b.full = full
	return true
}

var (
	// strikes is how many messages over budget a device may send before its
	// connection is dropped. A slow leak is forgiven, a flood is not.
	strikes = rate{10, 1000}
	// lines is how much the log says about what a device is refused: all of it is
	// counted.
	lines = rate{0.1, 5}
	// keyDrops is how many next keys a device may give up that it never used. Each
	// leaves a tombstone for years; an honest device gives one up after an accident.
	keyDrops = rate{10.0 / (24 * 60 * 60), 10}
)

const (
	// kickInterval is how often a device is dropped at most. What it sent before it
	// was dropped still comes, and must cost as little as possible: others wait
	// behind it.
	kickInterval = time.Second
	// lastingKicks is how long a flood lasts that dropping did not end, and
	// kickPause what ends a row of kicks.
	lastingKicks, kickPause = 5 * time.Second, 10 * time.Second
)

// Verdict says what becomes of a message.
type Verdict int

// Values of Verdict.
const (
	// Pass: it is answered.
	Pass Verdict = iota
	// Refuse: the budget is used up, which is answered.
	Refuse
	// Ignore: it is part of a flood that is dealt with, or of a device that nobody
	// knows, whose connection is about to end.
	Ignore
	// DroppedStrays: it is part of a flood of sessions that are not the device. They
	// were dropped and are kept out.
	DroppedStrays
	// DroppedDevice: it is part of a flood of the device, which was dropped and is
	// kept out.
	DroppedDevice
)

// budgets are what a device may send. They are kept across a reconnect, so that
// reconnecting buys nothing.
type budgets struct {
	// own is that of the device. What sessions that are not the device send uses up
	// nothing of it: they share a budget of their own, which most devices never need.
	own      budget
	strays   *budget
	lines    bucket
	keyDrops bucket
	// answered is how many bytes the device was sent since somebody looked whether it
	// reads them.
	answered int
}

type budget struct {
	// kinds has a bucket for each of wire.Kinds, nil before the first message.
	kinds   []bucket
	strikes bucket
	// kicked is when somebody was last dropped for it, and kickedSince when for the
	// first time in a row.
	kicked, kickedSince time.Time
}

// Take takes a message of so many bytes of a session from the budget of its device
// for messages of its kind. One that is too long counts as often as the longest one
// fits into it: the server had to carry it. Whoever sends too much is dropped, see stop.
// A session that has a connection and has yet to prove itself can ask for that, whatever
// others send in the meantime.
func (r *Roster) Take(name, session string, kind wire.Kind, bytes int) (v Verdict) {
	v = Ignore
	r.update(name, func(d *device, e *effects) {
		now := r.now()
		if kind == wire.KindSnapshot && session != d.current.Session && !d.isQuarantined(session) && d.mayAsk(session, now) {
			v = Pass
			return
		}
		b := d.budgetOf(session)
		if v = b.take(kind, bytes, now); v == DroppedDevice {
			v = d.stop(name, session, b.kick(now), now, e)
		}
	})
	return v
}

// budgetOf returns the budget that messages of a session come out of.
func (d *device) budgetOf(session string) *budget {
	if d.isStray(session) {
		return d.strayBudget()
	}
	return &d.own
}

func (b *budgets) strayBudget() *budget {
	if b.strays == nil {
		b.strays = &budget{}
	}
	return b.strays
}

// take returns DroppedDevice when whoever has the budget has to be dropped.
func (b *budget) take(kind wire.Kind, bytes int, now time.Time) Verdict {
	if b.kinds == nil {
		b.kinds = make([]bucket, len(wire.Kinds))
	}
	verb := kind.Verb()
	i := slices.Index(wire.Kinds, kind) // -1 for a kind that nobody knows, which has no budget
	longest := verb.MaxRequest
	if i < 0 {
		longest = unknownLength
	}
	cost := 1 + max(0, bytes-1)/longest
	switch {
	case i >= 0 && b.kinds[i].take(rate{verb.Rate, verb.Burst}, cost, now):
		return Pass
	case b.strikes.take(strikes, cost, now):
		return Refuse
	case now.Sub(b.kicked) < kickInterval:
		return Ignore
	}
	return DroppedDevice
}

// kick notes that somebody is dropped for it, and reports whether that has not helped for
// a while.
func (b *budget) kick(now time.Time) (lasting bool) {
	if now.Sub(b.kicked) > kickPause {
		b.kickedSince = now
	}
	b.kicked = now
	return now.Sub(b.kickedSince) >= lastingKicks
}

// unknownLength is how many bytes of a message of no known kind count once.
const unknownLength = 1 << 10

// lookEvery is after how many bytes of answers to look whether a device reads
// them: looking costs some microseconds.
const lookEvery = 1 << 20

// Answered adds an answer of so many bytes to a device. It returns the connections
// of which somebody should look whether they are read, every now and then.
func (r *Roster) Answered(name string, bytes int) (look []uint64) {
	r.look(name, func(d *device) {
		if d.answered += bytes; d.answered >= lookEvery {
			d.answered, look = 0, idsOf(d.open, all)
		}
	})
	return look
}

// MayDropKey reports whether a device may give up a next key that it never used.
func (r *Roster) MayDropKey(name string) (may bool) {
	r.look(name, func(d *device) { may = d.keyDrops.take(keyDrops, 1, r.now()) })
	return may
}

// Line reports whether the log may say that a device is refused something.
func (r *Roster) Line(name string) (may bool) {
	r.look(name, func(d *device) { may = d.lines.take(lines, 1, r.now()) })
	return may
}
