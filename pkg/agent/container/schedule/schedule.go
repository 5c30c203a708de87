// Package schedule decides when jobs run, whatever becomes of the system's clock.
//
// Runs are told apart by their time, as the system's clock shows it. A clock may be set by
// hours while the device is up, and be wrong after each start. So a Record knows the spans of
// time that were lived through, not merely the last one: a clock that is set back comes into a
// span whose runs there were, and nothing runs twice; one that was wrongly ahead for a day and
// is put right leaves the times in between to be lived through. Whether time passed or the
// clock was set, a clock says that only grows from one boot to the next.
//
// Everything here is pure.
package schedule

import (
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
)

// WasSet reports whether the system's clock was set between two looks at both clocks.
func WasSet(before, now time.Time, from, to runs.Moment) bool {
	gap := now.Round(0).Sub(before.Round(0)) - (to.Uptime - from.Uptime)
	return from.Boot != to.Boot || gap.Abs() > drift/2
}

const (
	// late is how long after its time a run still counts as being on time: the agent may be
	// upgraded just then, or the device restarted.
	late = 5 * time.Minute
	// drift is how far two clocks may differ without one having been set.
	drift = time.Minute
	// maxSpans bounds the spans that are known, maxPast the runs, maxSteps the times that are
	// looked at to find a run.
	maxSpans, maxPast, maxSteps = 32, 5, 10_000
)

// Rule is when a job runs.
type Rule struct {
	// Key changes with the times.
	Key   string
	Times interface{ Next(time.Time) time.Time }
	// Replace: a run ends the one before. CatchUp: one run makes up for missed ones.
	Replace, CatchUp bool
}

// Span is a time that was lived through, both ends included.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Run is one run of a job.
type Run struct {
	// At is its time; zero for none.
	At time.Time `json:"at,omitzero"`
	// Hash is that of its container.
	Hash string `json:"hash,omitempty"`
	// Begun: its container was made. Done: it ended, and is not tried again.
	Begun bool `json:"begun,omitempty"`
	Done  bool `json:"done,omitempty"`
	// Failure says, in one line, how the last run failed that was done; empty when it did
	// not.
	Failure string `json:"failure,omitempty"`
}

// Active reports whether there is a run that is not done.
func (r *Run) Active() bool { return !r.At.IsZero() && !r.Done }

// Result is what became of a run.
type Result string

// Values of Result.
const (
	Succeeded Result = "Succeeded"
	Failed    Result = "Failed"
	// Skipped: the run before still ran.
	Skipped Result = "Skipped"
	// Missed: its time passed while the device was off, or by a clock that was set, or
	// before what it depends on was there.
	Missed Result = "Missed"
	// Replaced: the next run ended it.
	Replaced Result = "Replaced"
)

// Past is a run that was.
type Past struct {
	At     time.Time `json:"at"`
	Result Result    `json:"result"`
	Code   int       `json:"code,omitempty"`
}

// Record is what is known of one job.
type Record struct {
	Key string `json:"key"`
	// Spans are in the order in which they were lived through last.
	Spans []Span `json:"spans"`
	// Wall is the time of the last decision by the system's clock, Boot and Uptime are that
	// of the other one.
	Wall   time.Time     `json:"wall"`
	Boot   string        `json:"boot"`
	Uptime time.Duration `json:"uptime"`
	Run    Run           `json:"run,omitzero"`
	// Past are the last runs, the newest first.
	Past []Past `json:"past,omitempty"`
}

// New returns the record of a job that is new: it runs from now on.
func New(rule *Rule, wall time.Time, at runs.Moment) *Record {
	r := &Record{}
	r.begin(rule, wall, at)
	return r
}

func (r *Record) begin(rule *Rule, wall time.Time, at runs.Moment) {
	wall = wall.Round(0).UTC()
	r.Key, r.Spans = rule.Key, []Span{{wall, wall}}
	r.Wall, r.Boot, r.Uptime = wall, at.Boot, at.Uptime
}

// Decide returns the time of the run that is due now, or zero. What it returns it never
// returns again, provided that the record is kept when there is news.
func (r *Record) Decide(rule *Rule, wall time.Time, at runs.Moment) (due time.Time, news bool) {
	wall = wall.Round(0).UTC()
	if r.Key != rule.Key {
		r.begin(rule, wall, at)
		return time.Time{}, true
	}
	since, passed := r.Wall, at.Uptime-r.Uptime
	gap := wall.Sub(since) - passed
	lived := r.Boot == at.Boot && passed >= 0 && gap.Abs() <= drift
	r.Wall, r.Boot, r.Uptime = wall, at.Boot, at.Uptime
	if !wall.After(since) {
		r.live(Span{wall, wall})
		return time.Time{}, !lived
	}
	if !lived { // what lies before a time that was lived through is not made up for
		for _, s := range r.Spans {
			if s.To.After(since) && !s.To.After(wall) {
				since = s.To
			}
		}
	}
	last := r.last(rule, since, wall)
	switch {
	case last.IsZero():
	case wall.Sub(last) <= late || rule.CatchUp:
		due = last
	default:
		r.Note(Past{At: last, Result: Missed})
	}
	switch {
	case lived:
		r.live(Span{since, wall})
	case !due.IsZero(): // what was missed may come yet if the clock is wrong
		r.live(Span{due, due})
		r.live(Span{wall, wall})
	default:
		r.live(Span{wall, wall})
	}
	return due, !lived || !last.IsZero()
}

// last is the last time of a run that is after since, not after until, and in no span.
func (r *Record) last(rule *Rule, since, until time.Time) (last time.Time) {
	// A look back that doubles finds the last one without counting all of them.
	for back := time.Minute; ; back *= 2 {
		from := until.Add(-back)
		whole := !from.After(since)
		if whole {
			from = since
		}
		at := from
		for range maxSteps {
			at = rule.Times.Next(at).UTC()
			if at.Before(from) || at.After(until) { // before: there is none any more
				break
			}
			if !r.lived(at) {
				last = at
			}
		}
		if !last.IsZero() || whole {
			return last
		}
	}
}

// lived reports whether a time is in a span.
func (r *Record) lived(at time.Time) bool {
	return slices.ContainsFunc(r.Spans, func(s Span) bool { return !at.Before(s.From) && !at.After(s.To) })
}

// live adds a span, and unites it with those that it touches.
func (r *Record) live(now Span) {
	r.Spans = slices.DeleteFunc(r.Spans, func(s Span) bool {
		if s.To.Before(now.From) || s.From.After(now.To) {
			return false
		}
		if s.From.Before(now.From) {
			now.From = s.From
		}
		if s.To.After(now.To) {
			now.To = s.To
		}
		return true
	})
	r.Spans = append(r.Spans, now)
	r.Spans = r.Spans[max(0, len(r.Spans)-maxSpans):]
}

// Next is the time of the next run, or zero.
func (r *Record) Next(rule *Rule) time.Time {
	at := r.Wall
	for range maxSteps {
		if at = rule.Times.Next(at).UTC(); !at.After(r.Wall) {
			return time.Time{}
		}
		if !r.lived(at) {
			return at
		}
	}
	return time.Time{}
}

// Note adds a run to the past.
func (r *Record) Note(p Past) {
	if len(r.Past) > 0 && r.Past[0].Result == p.Result && (p.Result == Skipped || p.Result == Missed) {
		r.Past = r.Past[1:] // one of many says enough
	}
	r.Past = append([]Past{p}, r.Past...)
	r.Past = r.Past[:min(len(r.Past), maxPast)]
}

// Trigger begins the run of a time. busy: the one before still runs.
func (r *Record) Trigger(rule *Rule, due time.Time, hash string, busy bool) {
	switch {
	case busy && !rule.Replace:
		r.Note(Past{At: due, Result: Skipped})
		return
	case busy:
		r.Note(Past{At: r.Run.At, Result: Replaced})
	case r.Run.Active() && r.Run.Begun:
		r.Note(Past{At: r.Run.At, Result: Failed})
	case r.Run.Active():
		r.Note(Past{At: r.Run.At, Result: Missed})
	}
	r.Run = Run{At: due, Hash: hash, Failure: r.Run.Failure}
}

// Finish ends the run. failure is empty when it did what it is for.
func (r *Record) Finish(code int, failure string) {
	result := Succeeded
	if failure != "" {
		result = Failed
	}
	r.Run.Done, r.Run.Failure = true, failure
	r.Note(Past{At: r.Run.At, Result: result, Code: code})
}
