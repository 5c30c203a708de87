// Package runs keeps account of the runs of containers: when each began and ended, how
// often its container ended lately, and what came of it.
//
// A runtime dates runs by the system's clock, which a device without a battery sets by
// hours or years while it is up. So a Ledger dates what it sees itself, by a clock that
// only grows from one boot to the next, and compares the runtime's dates for equality
// alone: another start is another run. Podman does not restart containers either: that
// is up to the agent, which starts what ended after a pause, see Pause.
//
// Records outlive the agent, so that its restart neither forgives a crash loop nor
// makes anything wait that is well.
package runs

import (
	"log/slog"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

const (
	// minPause and maxPause bound the pause before a container starts again.
	minPause, maxPause = time.Second, 5 * time.Minute
	// good is how long a run lasts after which the pause begins anew.
	good = 10 * time.Minute
	// maxRecords bounds the containers that something is known of: podman has room for
	// half as many.
	maxRecords = 4096
)

// Pause is the time from the end of a container until it starts again, which doubles
// with each end since the last good run, from 1 s to 5 min. There is none without an
// end that counts.
func Pause(ends int) time.Duration {
	if ends <= 0 {
		return 0
	}
	pause := minPause
	for ; ends > 1 && pause < maxPause; ends-- {
		pause *= 2
	}
	return min(pause, maxPause)
}

// Moment is a point in time.
type Moment struct {
	// Boot names the time from one start of the device to the next.
	Boot string
	// Uptime is the time since the start of the device.
	Uptime time.Duration
}

// Record is what is remembered of one container.
type Record struct {
	// Run is when the last run began, as the runtime dates it; zero before the first.
	Run time.Time `json:"run,omitzero"`
	// Ended: that run ended.
	Ended bool `json:"ended,omitempty"`
	// Down: the device went down during that run.
	Down bool `json:"down,omitempty"`
	// Boot and Since are the Moment when the run was seen to begin or to end.
	Boot  string        `json:"boot"`
	Since time.Duration `json:"since"`
	// Restarts counts the runs after the first.
	Restarts int `json:"restarts,omitempty"`
	// Ends counts the ends since the last good run.
	Ends int `json:"ends,omitempty"`
	// Last is how the last run that ended did so.
	Last container.Exit `json:"last,omitzero"`
	// Health is what probes found out about the run, and Changed the time since the start
	// of the device at which it became as ready as it is.
	Health  container.Health `json:"health,omitzero"`
	Changed time.Duration    `json:"changed,omitempty"`

	// oddity is what is odd about its state, and odd when that was first seen: time that
	// it was paused does not count for how long it takes to stop.
	oddity container.Oddity
	odd    time.Duration
	// changed is the place in the order of the last change by this agent, noted that of its
	// last sight of the container.
	changed, noted uint64
}

// Keeper remembers records over restarts of the agent; package store implements it.
type Keeper interface {
	// Load decodes what was saved into v, a pointer, and reports whether there is any.
	Load(v any) bool
	Save(v any) error
}

// Ledger has the records of all containers by id. Its methods may be called concurrently.
type Ledger struct {
	keeper Keeper
	now    func() Moment
	log    *slog.Logger

	mu      sync.Mutex // guards what follows
	records map[string]Record
	// order counts what it is told.
	order   uint64
	unsaved bool
}

// New returns a ledger that begins with what keeper remembers. keeper may be nil. now is
// the clock; nil for one that begins with the ledger.
func New(keeper Keeper, now func() Moment, log *slog.Logger) *Ledger {
	if now == nil {
		began := time.Now()
		now = func() Moment { return Moment{Uptime: time.Since(began)} }
	}
	l := &Ledger{keeper: keeper, now: now, log: log, records: map[string]Record{}}
	if keeper != nil {
		keeper.Load(&l.records)
	}
	if l.records == nil { // saved by nobody that means well
		l.records = map[string]Record{}
	}
	return l
}

// Now is the present Moment.
func (l *Ledger) Now() Moment { return l.now() }

// Look orders a look at containers among what the Ledger is told.
type Look struct{ order uint64 }

// Begin notes that a look at containers begins.
func (l *Ledger) Begin() Look {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Look{l.next()}
}

// next must be called with mu held.
func (l *Ledger) next() uint64 {
	l.order++
	return l.order
}

// End is the end of a run that a look was the first to find.
type End struct {
	// Place is that of the container in the list.
	Place int
	// Unasked: neither the agent ended the run, nor did the device go down.
	Unasked bool
	// Ran is how long the run was seen to last; zero when its beginning was not seen.
	Ran time.Duration
}

// See notes what a look found, and completes the containers by
// what is known of their runs. It returns the ends that are news, in the order of list.
func (l *Ledger) See(began Look, list []container.Container) (ends []End) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, wall := l.now(), time.Now()
	for i := range list {
		c := &list[i]
		before, known := l.records[c.ID]
		r := before
		if known && r.changed > began.order { // the look is older than what is known
			r.complete(c, now, wall)
			continue
		}
		if !known {
			r = first(c, now, wall)
		}
		r.noted = l.next()
		if oddity := c.Oddity(); oddity != r.oddity {
			r.oddity, r.odd = oddity, now.Uptime
		}
		if r.see(c, now) || !known {
			r.changed, l.unsaved = l.next(), true
		}
		if known || len(l.records) < maxRecords {
			l.records[c.ID] = r
		}
		if r.Ended && (!known || !before.Ended || !before.Run.Equal(r.Run)) {
			ends = append(ends, r.ending(i, &before, known, now))
		}
		r.complete(c, now, wall)
	}
	return ends
}

// ending describes the end of a run, of which before was known until now.
func (r *Record) ending(place int, before *Record, known bool, now Moment) End {
	e := End{Place: place, Unasked: known && !r.Down}
	if known && before.Boot == now.Boot && before.Run.Equal(r.Run) {
		e.Ran = now.Uptime - before.Since
	}
	return e
}

// first is the record of a container that none is known of: an earlier agent made it, or
// the record was lost. Here alone the system's clock has to do.
func first(c *container.Container, now Moment, wall time.Time) Record {
	r := Record{Boot: now.Boot, Since: now.Uptime}
	switch {
	case c.Unstarted():
	case c.Ended():
		r.Run, r.Ended, r.Down, r.Last = c.Started, true, c.LooksInterrupted(), c.Exit()
	default:
		ran := wall.Sub(c.Started)
		if ran < 0 { // the clock was set: nothing says that it began just now
			ran = now.Uptime
		}
		r.Run, r.Since = c.Started, now.Uptime-min(ran, now.Uptime)
	}
	return r
}

// see takes what is seen of the container, and reports whether that is news.
func (r *Record) see(c *container.Container, now Moment) bool {
	if c.Unstarted() {
		return false
	}
	if c.Started.Equal(r.Run.Truncate(time.Second)) {
		c.Started = r.Run // a runtime that cannot inspect a container knows seconds only
	}
	news, boot := !c.Started.Equal(r.Run), r.Boot
	if news {
		r.begin(c.Started, now)
	}
	if news && boot != now.Boot && c.LooksInterrupted() {
		r.Boot = boot // the device went down before anybody had seen the run
	}
	if c.Ended() && !r.Ended {
		r.end(c, now)
		return true
	}
	if c.State == container.StateRunning && (r.Ended || r.Boot != now.Boot) {
		r.begin(c.Started, now) // it goes on, as one that was frozen while the device slept does
		return true
	}
	return news
}

func (r *Record) begin(run time.Time, now Moment) {
	if !r.Run.IsZero() && !r.Down {
		r.Restarts++
	}
	r.Run, r.Ended, r.Down, r.Boot, r.Since = run, false, false, now.Boot, now.Uptime
	r.Health, r.Changed = container.Health{}, now.Uptime
}

// end counts an end, unless the whole device went down.
func (r *Record) end(c *container.Container, now Moment) {
	r.Ended, r.Down, r.Last = true, r.Boot != now.Boot, c.Exit()
	r.Last.Unwell = r.Health.Unwell
	switch {
	case r.Down:
	case now.Uptime-r.Since >= good:
		r.Ends = 1
	default:
		r.Ends++
	}
	r.Boot, r.Since = now.Boot, now.Uptime
}

// complete gives a container what is known of its runs.
func (r *Record) complete(c *container.Container, now Moment, wall time.Time) {
	c.Restarts, c.Ends, c.Last = max(r.Restarts, c.PolicyRestarts), r.Ends, r.Last
	c.Down = r.Ended && r.Down
	if c.Odd() && c.Oddity() == r.oddity { // which an older look need not show
		c.Stuck = now.Uptime - r.odd
	}
	since := now.Uptime // in another boot: since this one began
	if r.Boot == now.Boot {
		since = now.Uptime - r.Since
	}
	c.Since, c.HealthSince = wall.Add(-since), wall.Add(-since)
	if !r.Ended && r.Boot == now.Boot {
		c.Health, c.HealthSince = r.Health, wall.Add(r.Changed-now.Uptime)
	}
}

// Probed notes what probes found out about a run of a container, which began at started
// as the runtime dates it, and reports whether that is news of that run.
func (l *Ledger) Probed(id string, started time.Time, h container.Health) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, known := l.records[id]
	if !known || r.Ended || !r.Run.Equal(started) || r.Health == h {
		return false
	}
	now := l.now()
	if r.Health.Ready != h.Ready || r.Health.Started != h.Started || r.Health.Hooked != h.Hooked {
		r.Changed = now.Uptime
	}
	r.Health, r.changed = h, l.next()
	l.records[id], l.unsaved = r, true
	return true
}

// Tell adds the last output of a container to the record of how it ended.
func (l *Ledger) Tell(c *container.Container, output string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, known := l.records[c.ID]
	if !known || !r.Ended || !r.Run.Equal(c.Started) {
		return
	}
	r.Last.Output, c.Last.Output = output, output
	l.records[c.ID], l.unsaved = r, true
}

// Made notes that the agent itself made a container, or starts one anew: all its runs count
// that are seen from now on.
func (l *Ledger) Made(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.records[id], l.unsaved = Record{Boot: now.Boot, Since: now.Uptime, noted: l.next()}, true
}

// Expect notes that the agent itself ends a container, which counts for nothing.
func (l *Ledger) Expect(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.records[id]; known {
		delete(l.records, id)
		l.unsaved = true
	}
}

// Keep forgets all containers that a look at everything did not find, and saves the
// records.
func (l *Ledger) Keep(began Look, list []container.Container) {
	there := make(map[string]bool, len(list))
	for _, c := range list {
		there[c.ID] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, r := range l.records {
		if !there[id] && r.noted <= began.order {
			delete(l.records, id)
			l.unsaved = true
		}
	}
	l.save()
}

// Save saves the records if they changed.
func (l *Ledger) Save() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.save()
}

// save must be called with mu held. What cannot be saved now is tried again with the
// next change and the next look: a full disk stops no workload.
func (l *Ledger) save() {
	if !l.unsaved || l.keeper == nil {
		return
	}
	if err := l.keeper.Save(l.records); err != nil {
		l.log.Warn("what is known of the containers' runs could not be saved", "error", err)
		return
	}
	l.unsaved = false
}
