package rollout_test

import (
	"maps"
	"math"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/rollout"
)

const never, absentAfter = time.Duration(-1 << 62), 10 * time.Minute

// record is what naive knows of a device.
type record struct {
	rollout.Facts
	changed                  bool
	givenAt, readyAt, goneAt time.Duration
	// stage is what became of what it was given: "", changing, failed or late.
	stage string
	away  bool
	batch int
	// turn is the place among all that were ever given something.
	turn int
}

// naive decides what a Plan decides. It has no counters, no queues and no classes: it looks at
// every device whenever it is asked anything.
type naive struct {
	spec    rollout.Spec
	target  rollout.Target
	batches []rollout.Batch

	want, released string
	rolledBack     bool
	batch          int
	taken          []int
	done, blocked  bool
	passed         time.Duration

	// slots are in the order in which devices go; nil where one was removed.
	slots      []*record
	free       []int
	repeated   []*record
	now, floor time.Duration
	wall       time.Time
	turns      int
}

func newNaive(now rollout.Moment, s rollout.Setup) *naive {
	n := &naive{spec: s.Spec, target: s.Target, want: s.Target.Revision, released: s.State.Released, now: now.Elapsed, floor: now.Elapsed}
	n.batches = append(slices.Clone(s.Spec.Batches), rollout.Batch{})
	n.taken = make([]int, len(n.batches))
	for _, f := range s.Devices {
		n.add(f)
	}
	same := s.State.Revision == s.Target.Revision
	if same && s.State.RolledBack && s.Spec.OnFailure == rollout.Rollback {
		n.rolledBack, n.want = true, n.released
	}
	for _, f := range s.State.Flights {
		for _, name := range f.Devices {
			if r := n.named(name); r != nil {
				n.resume(r, f)
			}
		}
	}
	if !same || s.State.Batches != key(s.Spec) || s.State.RolledBack != n.rolledBack {
		n.begin()
	} else {
		n.batch, n.taken = s.State.Batch, slices.Clone(s.State.Taken)
		if p := s.State.Passed; p != nil {
			n.done, n.passed = true, n.now-max(0, now.Wall.Sub(*p))
		}
	}
	n.forget()
	return n
}

// key is taken from a Plan: what it is made of is its own matter.
func key(s rollout.Spec) string {
	p := rollout.New(rollout.Moment{}, rollout.Setup{Spec: s, Target: rollout.Target{Revision: "any"}})
	return p.Next(rollout.Moment{}).State.Batches
}

func (n *naive) resume(r *record, f rollout.Flight) {
	if r.Unknown || r.changed || r.Given != f.Revision {
		r.Unknown, r.changed, r.Given, r.Outcome = false, false, f.Revision, rollout.Pending
		n.repeated = append(n.repeated, r)
	}
	n.turns++
	r.givenAt, r.batch, r.turn = n.now, f.Batch, n.turns
	switch {
	case f.Failed || r.Outcome == rollout.Failed:
		r.stage = "failed"
	case f.Late:
		r.stage = "late"
	default:
		r.stage = "changing"
	}
}

func (n *naive) all() (all []*record) {
	for _, r := range n.slots {
		if r != nil {
			all = append(all, r)
		}
	}
	return all
}

func (n *naive) named(name string) *record {
	for _, r := range n.all() {
		if r.Name == name {
			return r
		}
	}
	return nil
}

func (n *naive) count(is func(*record) bool) (count int) {
	for _, r := range n.all() {
		if is(r) {
			count++
		}
	}
	return count
}

func (n *naive) add(f rollout.Facts) {
	if f.Connected && n.count(func(r *record) bool { return r.Connected }) == 0 {
		n.floor = n.now
	}
	r := &record{Facts: f, changed: f.Changed, readyAt: n.now, goneAt: n.now, givenAt: never}
	if f.Unknown {
		r.Given, r.Outcome = "", rollout.Pending
	}
	if r.Outcome == rollout.Failed {
		r.stage = "failed"
	}
	if last := len(n.free) - 1; last >= 0 {
		n.slots[n.free[last]] = r
		n.free = n.free[:last]
	} else {
		n.slots = append(n.slots, r)
	}
}

func (n *naive) remove(gone *record) {
	for i, r := range n.slots {
		if r == gone {
			n.slots[i] = nil
			n.free = append(n.free, i)
		}
	}
}

// forget forgets those that neither have the Deployment nor are to have it.
func (n *naive) forget() {
	for _, r := range n.all() {
		if !r.Matched && !r.Unknown && r.Given == "" && r.stage != "changing" {
			n.remove(r)
		}
	}
}

func (n *naive) tick(now rollout.Moment) {
	n.now = now.Elapsed
	for _, r := range n.all() {
		if r.stage != "" && r.Outcome == rollout.Ready && r.Connected && r.readyAt+n.spec.MinReady <= n.now {
			r.stage = ""
		}
	}
	n.forget()
	inTurn := n.all() // the place of who left first is given away last
	slices.SortStableFunc(inTurn, func(a, b *record) int { return a.turn - b.turn })
	for _, r := range inTurn {
		switch {
		case r.stage != "changing" || r.givenAt+n.spec.Deadline > n.now:
		case r.Given == "" && r.Matched:
			r.stage = ""
		case r.Given == "":
			n.remove(r)
		default:
			r.stage = "late"
		}
	}
	if n.count(func(r *record) bool { return r.Connected }) > 0 {
		for _, r := range n.all() {
			r.away = r.away || !r.Connected && max(r.goneAt, n.floor)+absentAfter <= n.now
		}
	}
}

func (n *naive) SetSpec(now rollout.Moment, s rollout.Spec) {
	n.tick(now)
	before := n.spec
	n.spec = s
	n.batches = append(slices.Clone(s.Batches), rollout.Batch{})
	n.taken = append(n.taken, make([]int, 9)...)[:len(n.batches)]
	retried := n.rolledBack && s.OnFailure != rollout.Rollback
	if retried {
		n.rolledBack, n.want = false, n.target.Revision
	}
	if retried || key(before) != key(s) {
		n.begin()
	}
}

func (n *naive) SetTarget(now rollout.Moment, t rollout.Target) {
	n.tick(now)
	same := t.Revision == n.target.Revision
	if n.target = t; !same {
		n.want, n.rolledBack = t.Revision, false
		n.begin()
	}
}

func (n *naive) begin() {
	n.batch, n.done = 0, false
	clear(n.taken)
	for _, r := range n.all() {
		r.batch = 0
		for i := range n.batches {
			if r.batch == 0 && r.Matched && n.want != "" && r.Given == n.want && n.selects(i, r) && !n.full(i) {
				n.taken[i]++
				r.batch = i + 1
			}
		}
	}
}

func (n *naive) Set(now rollout.Moment, f rollout.Facts) {
	n.tick(now)
	r := n.named(f.Name)
	if r == nil {
		n.add(f)
		n.forget()
		return
	}
	if f.Connected && !r.Connected {
		if n.count(func(r *record) bool { return r.Connected }) == 0 {
			n.floor = n.now
		}
		r.away, r.readyAt = false, n.now
	}
	if !f.Connected && r.Connected {
		r.goneAt = n.now
	}
	if r.Unknown && !f.Unknown {
		r.Given, r.Outcome, r.readyAt = f.Given, f.Outcome, n.now
		if r.Outcome == rollout.Failed {
			r.stage = "failed"
		}
	}
	r.Unknown = r.Unknown && f.Unknown
	r.Labels, r.Zone, r.Matched, r.Held, r.Connected, r.changed = f.Labels, f.Zone, f.Matched, f.Held, f.Connected, r.changed || f.Changed
	n.forget()
}

func (n *naive) Remove(now rollout.Moment, name string) {
	n.tick(now)
	n.remove(n.named(name))
}

func (n *naive) Report(now rollout.Moment, name, revision string, o rollout.Outcome) {
	n.tick(now)
	r := n.named(name)
	switch {
	case r == nil || r.Unknown || r.Given != revision || r.Outcome == o:
	case r.Given == "" && r.stage == "changing" && o == rollout.Ready:
		r.stage = ""
		n.forget()
	case r.Given == "":
	default:
		r.Outcome, r.readyAt = o, n.now
		if o == rollout.Failed {
			r.stage = "failed"
		}
	}
}

func (n *naive) status(r *record) string {
	switch {
	case !r.Matched:
		return "leaving"
	case r.Unknown:
		return "unknown"
	case n.want != "" && r.Given == n.want && !r.changed:
		return map[string]string{"": "succeeded", "changing": "reached"}[r.stage] + map[string]string{"failed": "failed", "late": "late"}[r.stage]
	case r.Held:
		return "held"
	case r.Connected:
		return "waiting"
	case r.away:
		return "absent"
	}
	return "gone"
}

func (n *naive) isBad(r *record) bool { return r.stage == "failed" || r.stage == "late" }
func (n *naive) hasGoal(r *record) bool {
	return r.Matched && r.Given == n.want || !r.Matched && r.Given == ""
}
func (n *naive) is(s ...string) func(*record) bool {
	return func(r *record) bool { return slices.Contains(s, n.status(r)) }
}
func (n *naive) selects(batch int, r *record) bool {
	return n.batches[batch].Selector.Matches(r.Labels)
}
func (n *naive) rolling() bool {
	return !n.rolledBack && n.target.Revision != "" && n.target.Revision != n.released
}

func (n *naive) out(r *record) bool {
	return r.stage == "changing" ||
		!r.Unknown && r.Given != "" && (n.isBad(r) && n.hasGoal(r) || r.Connected && (n.isBad(r) || r.Outcome != rollout.Ready))
}

func (n *naive) budget() int { return max(1, share(n.spec.MaxUnavailable, len(n.all()), false)) }

func share(a rollout.Amount, of int, up bool) int {
	switch {
	case !a.Percent:
		return a.N
	case up:
		return (a.N*of + 99) / 100
	}
	return a.N * of / 100
}

func (n *naive) quota(batch int) int {
	if l := n.batches[batch].Limit; l != nil {
		matched := n.count(func(r *record) bool { return r.Matched })
		return max(1, share(*l, matched, true))
	}
	return math.MaxInt32
}

func (n *naive) full(batch int) bool { return n.taken[batch] >= n.quota(batch) }

func (n *naive) expected(batch int) int {
	return n.count(func(r *record) bool { return n.selects(batch, r) && n.is("waiting", "gone")(r) })
}

func (n *naive) ofBatch(batch int, is func(*record) bool) int {
	return n.count(func(r *record) bool { return r.batch == batch+1 && r.Matched && n.hasGoal(r) && is(r) })
}

func (n *naive) changingIn(batch int) int {
	return n.ofBatch(batch, func(r *record) bool { return r.stage == "changing" })
}

func (n *naive) filled() bool { return n.full(n.batch) || n.expected(n.batch) == 0 || n.blocked }

func (n *naive) failing() bool {
	if n.spec.OnFailure == rollout.Continue {
		return false
	}
	bad, reached := n.count(n.is("failed", "late")), n.count(n.is("failed", "late", "succeeded", "reached"))
	if t := n.spec.FailureThreshold; t != nil && bad > share(*t, reached, false) {
		return true
	}
	for i := 0; i <= n.batch; i++ {
		size := n.taken[i]
		if open := i < n.batch || !n.filled() || n.changingIn(i) > 0; open && n.batches[i].Limit != nil {
			size = max(size, n.quota(i))
		} else if open {
			size = max(size, n.count(func(r *record) bool { return n.selects(i, r) && r.Matched }))
		}
		if n.ofBatch(i, n.isBad)*100 > size*n.batches[i].Tolerance {
			return true
		}
	}
	return false
}

func (n *naive) judge() {
	for n.rolling() && !n.spec.Paused {
		last, lacking := n.batch == len(n.batches)-1, n.count(n.is("waiting", "gone", "absent", "held", "unknown"))
		reached := n.count(n.is("failed", "late", "succeeded", "reached"))
		changing := n.count(n.is("reached"))
		switch {
		case n.failing() && n.spec.OnFailure == rollout.Rollback && n.released != "" && !n.target.NoWayBack:
			n.rolledBack, n.want = true, n.released
			continue
		case n.failing():
			return
		case lacking == 0 && changing == 0 && reached > 0:
			n.released = n.target.Revision
			continue
		case !n.filled() || n.changingIn(n.batch) > 0 || reached == 0 && n.count(n.is("waiting", "gone")) == 0:
			return
		}
		if !n.done {
			n.done, n.passed = true, n.now
		}
		later := n.count(func(r *record) bool { return n.is("waiting")(r) && !n.opens(r) })
		rest := n.count(func(r *record) bool { return n.is("waiting", "gone", "absent", "held", "unknown")(r) && !n.opens(r) })
		more := !n.full(n.batch) && n.count(func(r *record) bool {
			return n.is("waiting", "gone", "absent", "held", "unknown")(r) && n.selects(n.batch, r)
		}) > 0
		pause := n.batches[n.batch]
		switch {
		case rest == 0 && reached > 0 && changing == 0:
			n.released = n.target.Revision
		case last || more && later == 0 || pause.Approval && n.spec.ApprovedBatch <= n.batch || n.now < n.passed+pause.Pause:
			return
		default:
			n.batch++
			n.done, n.blocked = false, false
		}
	}
}

// opens reports whether an open batch takes a device.
func (n *naive) opens(r *record) bool {
	for i := range n.batches {
		if (!n.rolling() || i <= n.batch && !n.full(i)) && n.selects(i, r) {
			return true
		}
	}
	return false
}

func (n *naive) window(r *record) bool {
	if len(n.spec.Windows) == 0 {
		return true
	}
	zone := r.Zone
	if _, err := time.LoadLocation(zone); err != nil {
		zone = ""
	}
	return slices.ContainsFunc(n.spec.Windows, func(w rollout.Window) bool {
		if w.OfDevice && zone != "" {
			return isOpen(w, zone, n.wall)
		}
		return isOpen(w, w.TimeZone, n.wall)
	})
}

// isOpen knows windows that open at a full hour each day ("0 H * * *"), or each hour, in weeks
// without a change of the clocks.
func isOpen(w rollout.Window, zone string, now time.Time) bool {
	location, err := time.LoadLocation(zone)
	if err != nil {
		return false
	}
	for back := time.Duration(0); back < 25*time.Hour; back += time.Hour {
		began := now.In(location).Truncate(time.Hour).Add(-back)
		hour := w.Cron[2:3]
		if now.Sub(began) < w.Duration && (hour == "*" || began.Hour() == int(hour[0]-'0')) {
			return true
		}
	}
	return false
}

func (n *naive) leaving() (leaving []*record) {
	for _, r := range n.all() {
		if n.status(r) == "leaving" && r.Given != "" {
			leaving = append(leaving, r)
		}
	}
	return leaving
}

func (n *naive) mayLeave() bool {
	m, leaving := n.spec.MaxRemoval, len(n.leaving())
	return m == nil || leaving <= n.spec.ApprovedRemoval || leaving <= share(*m, n.count(func(r *record) bool { return r.Unknown || r.Given != "" }), false)
}

func (n *naive) Next(now rollout.Moment) (orders []rollout.Order) {
	n.tick(now)
	n.wall = now.Wall
	if !n.spec.Paused {
		n.repeated = slices.DeleteFunc(n.repeated, func(r *record) bool {
			flying := slices.Contains(n.slots, r) && (r.stage == "changing" || n.isBad(r) && r.Matched && n.hasGoal(r))
			if flying && n.window(r) {
				n.turns++
				r.stage, r.givenAt, r.turn = "changing", n.now, n.turns
				orders = append(orders, rollout.Order{Device: r.Name, Revision: r.Given})
			}
			return !flying || n.window(r)
		})
	}
	n.blocked = false
	for {
		n.judge()
		before := len(orders)
		if !n.spec.Paused {
			orders = append(orders, n.promote()...)
		}
		if len(orders) > before {
			continue
		}
		if n.blocked || !n.rolling() || n.spec.Paused || len(n.spec.GroupBy) == 0 || n.failing() {
			return orders
		}
		waits := func(r *record) bool { return n.is("waiting")(r) && n.opens(r) }
		able := n.count(func(r *record) bool { return waits(r) && n.window(r) })
		mine := n.count(func(o *record) bool { return o.stage == "changing" || n.isBad(o) && n.hasGoal(o) })
		changing := n.count(func(o *record) bool { return o.stage == "changing" })
		if able == 0 || able < n.count(waits) || changing > 0 || n.count(n.out) >= n.budget() && mine > 0 {
			return orders
		}
		n.blocked = true
	}
}

func (n *naive) promote() (orders []rollout.Order) {
	within := n.spec.Removal == rollout.RemoveWithinBudget
	if !within && n.mayLeave() {
		for _, r := range n.leaving() {
			if n.window(r) {
				orders = append(orders, rollout.Order{Device: r.Name})
				n.remove(r)
			}
		}
	}
	leave := within && n.mayLeave()
	stopped := n.want == "" || n.rolling() && n.failing()
	for _, out := range []bool{true, false} {
		for _, r := range n.all() {
			waits := n.status(r) == "waiting" && !stopped && n.opens(r) || n.status(r) == "leaving" && r.Given != "" && r.Connected && leave
			if !waits || n.out(r) != out || !n.fits(r) {
				continue
			}
			n.give(r)
			orders = append(orders, rollout.Order{Device: r.Name, Revision: r.Given})
		}
	}
	return orders
}

func (n *naive) fits(r *record) bool {
	others := func(is func(*record) bool, group bool) int {
		return n.count(func(o *record) bool { return o != r && is(o) && (!group || n.sameGroup(o, r)) })
	}
	is := n.out
	if n.out(r) {
		is = func(o *record) bool { return o.stage == "changing" }
	}
	mine := func(o *record) bool { return o.stage == "changing" || n.isBad(o) && n.hasGoal(o) }
	room := others(is, false) < n.budget() || !n.out(r) && others(mine, false) == 0
	return (n.window(r) || n.rolledBack && n.out(r) && r.Matched) && room && others(is, true) == 0
}

func (n *naive) sameGroup(a, b *record) bool { return sameGroup(n.spec.GroupBy, a.Labels, b.Labels) }

func sameGroup(keys []string, a, b map[string]string) bool {
	for _, k := range keys {
		x, has := a[k]
		if y, too := b[k]; !has || !too || x != y {
			return false
		}
	}
	return len(keys) > 0
}

func (n *naive) give(r *record) {
	if n.rolling() && r.Matched && (r.batch == 0 || r.Given != n.want) {
		r.batch = 0
		for i := 0; i <= n.batch && r.batch == 0; i++ {
			if n.selects(i, r) && !n.full(i) {
				n.done = n.done && (i != n.batch || n.taken[i] > 0)
				n.taken[i]++
				r.batch = i + 1
			}
		}
	}
	n.turns++
	r.turn = n.turns
	if r.Given = ""; r.Matched {
		r.Given = n.want
	}
	r.givenAt, r.readyAt, r.Outcome, r.stage, r.changed = n.now, n.now, rollout.Pending, "changing", false
}

// statuses counts the devices of each status.
func (n *naive) statuses() map[string]int {
	counts := map[string]int{}
	for _, r := range n.all() {
		counts[n.status(r)]++
	}
	delete(counts, "leaving")
	if l := len(n.leaving()); l > 0 {
		counts["leaving"] = l
	}
	if out := n.count(n.out); out > 0 {
		counts["out"] = out
	}
	counts["budget"] = n.budget()
	return counts
}

// ofVerdict is the same of a Plan.
func ofVerdict(v rollout.Verdict) map[string]int {
	counts := map[string]int{
		"waiting": v.Waiting, "gone": v.Gone, "absent": v.Absent, "held": v.Held, "reached": v.Reached, "succeeded": v.Succeeded,
		"failed": v.Failed, "late": v.Late, "unknown": v.Unknown, "leaving": v.Leaving, "out": v.Out, "budget": v.Budget,
	}
	maps.DeleteFunc(counts, func(_ string, n int) bool { return n == 0 })
	return counts
}
