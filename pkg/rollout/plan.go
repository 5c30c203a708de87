package rollout

import (
	"maps"
	"reflect"
	"slices"
	"time"
)

const (
	// absentAfter is how long a rollout waits for a device that disconnected, or that did
	// not connect since the server started or since no device at all was connected. An agent
	// is back within five minutes.
	absentAfter = 10 * time.Minute
	// maxWait is after how long Next is called again by whoever waits for a time of the wall
	// clock, which may be set meanwhile.
	maxWait = 10 * time.Minute
)

// Moment is the present time.
type Moment struct {
	// Wall is what clocks on the wall show. Windows open by it.
	Wall time.Time
	// Elapsed is the time since some moment, the same for all calls of one Plan. It never
	// shrinks, and setting the clock does not change it.
	Elapsed time.Duration
}

// Target is what the devices are to have.
type Target struct {
	// Revision names what they have in common; empty while there is none that may be given
	// to anybody.
	Revision string
	// NoWayBack: nobody can give the devices again what they had before, as after a change of
	// a Secret. A rollback is a pause then.
	NoWayBack bool
}

// Setup is what a Plan begins with.
type Setup struct {
	Spec   Spec
	Target Target
	// State is what was written last; the zero State when nothing was.
	State State
	// Devices are all that the Deployment belongs on, that have it, or that State names. Each
	// is there once.
	Devices []Facts
}

// Order is what one device is to be given.
type Order struct {
	Device string
	// Revision is empty when the Deployment leaves the device.
	Revision string
}

// Step is what Next decided.
type Step struct {
	// State is to be written before Orders are carried out; nil when what was written last
	// still holds. If that fails, nothing is carried out, and a new Plan is made of what was
	// written last: in this one the devices would be late before they heard of anything.
	State  *State
	Orders []Order
	// Again is when to call Next again, as Moment.Elapsed, if nothing happens before; zero
	// for never.
	Again time.Duration
}

// Plan decides about the devices of one Deployment.
type Plan struct {
	spec Spec
	// batches are those of spec and the last one, key is that of spec.
	batches []Batch
	key     string
	target  Target

	// revisions have numbers from 1.
	revisions []string
	numbers   map[string]uint32
	// goal is the target, released the last revision that was rolled out, want the one of them
	// that devices are brought to.
	goal, released, want uint32
	// rolledBack: the target failed.
	rolledBack bool
	// batch is the one that is open; passed is since when it is done, if it is.
	batch    int
	progress []progress
	done     bool
	// blocked: all that the open batch could take wait for devices of their groups that are out,
	// and that nothing changes.
	blocked bool
	// open has a bit for each batch that takes devices in this pass.
	open   uint64
	passed time.Duration

	devices []device
	free    []uint32
	byName  map[string]uint32

	totals
	classes      []class
	classNumbers map[classKey]uint32
	// groups[0] is that of devices in no group, and bounds nothing.
	groups       []group
	groupNumbers map[string]uint32
	freeGroups   []uint32
	zones        []zone
	zoneNumbers  map[string]uint32
	// byDevice: a window opens by the clocks of devices. looked is when windows were looked at.
	byDevice bool
	looked   Moment

	// flights are the devices of which the State tells.
	flights map[uint32]struct{}
	// repeated are those whose orders may not have been carried out before the start.
	repeated []uint32

	// now is the latest Moment.Elapsed, floor when the first device connected after none was.
	now, floor                   time.Duration
	readies, deadlines, absences queue
	lives                        uint32

	// dirty: something changed since the last decision. write: the State has to be written.
	// settledSince: devices settled since it was written.
	dirty, write, settledSince bool
	again                      time.Duration
	// first is the lowest number of a device that may wait for something.
	first uint32
}

// New returns the Plan of a Deployment.
func New(now Moment, s Setup) *Plan {
	p := &Plan{
		spec: s.Spec, target: s.Target, numbers: map[string]uint32{}, byName: make(map[string]uint32, len(s.Devices)),
		flights: map[uint32]struct{}{}, now: now.Elapsed, floor: now.Elapsed, dirty: true,
	}
	p.goal, p.released = p.number(s.Target.Revision), p.number(s.State.Released)
	p.want = p.goal
	p.setSpec()
	for _, f := range s.Devices {
		n := p.add(f)
		p.devices[n].gone = now.Elapsed
	}
	p.restore(now, &s.State)
	for n := range p.devices {
		d := &p.devices[n]
		if !d.is(connected) {
			p.absences.push(entry{p.now, uint32(n), d.life})
		}
		p.count(uint32(n), 1)
		p.timeReadiness(uint32(n))
	}
	for n := range p.devices {
		p.forgetIfGone(uint32(n))
	}
	return p
}

// number returns the number of a revision.
func (p *Plan) number(revision string) uint32 {
	if revision == "" {
		return 0
	}
	n := p.numbers[revision]
	if n == 0 {
		p.revisions = append(p.revisions, revision)
		n = uint32(len(p.revisions))
		p.numbers[revision] = n
	}
	return n
}

func (p *Plan) revision(number uint32) string {
	if number == 0 {
		return ""
	}
	return p.revisions[number-1]
}

// SetSpec says what the Deployment asks of its rollout. What devices were given stays.
func (p *Plan) SetSpec(now Moment, s Spec) {
	if reflect.DeepEqual(s, p.spec) {
		return
	}
	p.pass(now)
	key := p.key
	p.spec = s
	p.setSpec()
	for n := range p.devices {
		if p.devices[n].name != "" {
			p.classify(uint32(n))
		}
	}
	// Whoever no longer wants a rollback has the revision tried again.
	retried := p.rolledBack && s.OnFailure != Rollback
	if retried {
		p.rolledBack, p.want = false, p.goal
	}
	if retried || p.key != key {
		p.begin()
	}
	p.recount()
}

// setSpec derives from the spec what follows from it alone.
func (p *Plan) setSpec() {
	p.batches, p.key = p.spec.batches(), p.spec.key()
	p.progress = append(p.progress, make([]progress, max(0, len(p.batches)-len(p.progress)))...)[:len(p.batches)]
	p.classes, p.classNumbers = nil, map[classKey]uint32{}
	p.groups, p.groupNumbers, p.freeGroups = make([]group, 1), map[string]uint32{}, nil
	for n := range p.devices {
		p.devices[n].group = 0
	}
	p.setWindows()
}

// SetTarget says what the devices are to have. Whoever was not given the last target goes
// straight to this one.
func (p *Plan) SetTarget(now Moment, t Target) {
	if t == p.target {
		return
	}
	p.pass(now)
	same := t.Revision == p.target.Revision
	p.target, p.dirty = t, true
	if same {
		return
	}
	p.goal = p.number(t.Revision)
	p.want, p.rolledBack = p.goal, false
	p.begin()
	p.recount()
}

// begin begins the rollout anew. Devices that have what they should fill its batches from the
// first on.
func (p *Plan) begin() {
	p.batch, p.done, p.write = 0, false, true
	clear(p.progress)
	size := 0
	for n := range p.devices {
		if p.devices[n].is(matched) {
			size++
		}
	}
	for n := range p.devices {
		d := &p.devices[n]
		d.batch = 0
		if !d.is(matched) || p.want == 0 || d.given != p.want {
			continue
		}
		for i := range p.batches {
			if p.classes[d.class].mask>>i&1 != 0 && p.progress[i].taken < p.batches[i].quota(size) {
				p.progress[i].taken++
				d.batch = uint8(i + 1)
				break
			}
		}
	}
}

// Set adds or updates a device.
func (p *Plan) Set(now Moment, f Facts) {
	p.pass(now)
	n, known := p.byName[f.Name]
	switch {
	case !known:
		n = p.add(f)
		p.devices[n].gone = p.now
		p.count(n, 1)
		p.dirty = true
		if !f.Connected {
			p.absences.push(entry{p.now, n, p.devices[n].life})
		}
	case p.devices[n].same(f):
		return
	default:
		p.change(n, func(d *device) { p.update(n, d, f) })
	}
	p.timeReadiness(n)
	p.forgetIfGone(n)
}

// forgetIfGone forgets a device that neither has the Deployment nor is to have it.
func (p *Plan) forgetIfGone(n uint32) {
	if d := &p.devices[n]; !d.is(matched) && !d.is(unknown) && d.given == 0 && d.stage != changing {
		p.remove(n)
	}
}

// same reports whether facts say nothing new.
func (d *device) same(f Facts) bool {
	return d.is(matched) == f.Matched && d.is(held) == f.Held && d.is(connected) == f.Connected && !f.Changed &&
		d.is(unknown) == f.Unknown && d.zoneName == f.Zone && maps.Equal(d.labels, f.Labels)
}

// add adds a device that is not counted yet.
func (p *Plan) add(f Facts) uint32 {
	n := uint32(len(p.devices))
	if last := len(p.free) - 1; last >= 0 {
		n, p.free = p.free[last], p.free[:last]
	} else {
		p.devices = append(p.devices, device{})
	}
	p.lives++
	d := &p.devices[n]
	*d = device{name: f.Name, life: p.lives}
	d.set(unknown, true)
	p.byName[f.Name] = n
	p.update(n, d, f)
	return n
}

// update takes facts over into a device that is not counted.
func (p *Plan) update(n uint32, d *device, f Facts) {
	d.labels, d.zoneName = f.Labels, f.Zone
	p.classify(n)
	d.set(matched, f.Matched)
	d.set(held, f.Held)
	if f.Changed {
		d.set(changed, true)
	}
	if d.is(unknown) && !f.Unknown {
		d.set(unknown, false)
		d.given = p.number(f.Given)
		if d.outcome = f.Outcome; d.outcome == Failed {
			d.stage = failed
		}
		d.ready = p.now
	}
	switch {
	case f.Connected == d.is(connected):
	case f.Connected:
		if p.connected == 0 {
			p.floor = p.now
		}
		d.set(connected, true)
		d.set(away, false)
		d.ready = p.now
	default:
		d.set(connected, false)
		d.gone = p.now
		p.absences.push(entry{p.now, n, d.life})
	}
}

// timeReadiness sees to it that a device settles that is ready for long enough.
func (p *Plan) timeReadiness(n uint32) {
	if d := &p.devices[n]; d.ready == p.now && d.outcome == Ready && d.stage != settled && d.is(connected) {
		p.readies.push(entry{d.ready, n, d.life})
	}
}

// Remove removes a device that was deleted.
func (p *Plan) Remove(now Moment, name string) {
	p.pass(now)
	if n, known := p.byName[name]; known {
		p.remove(n)
	}
}

func (p *Plan) remove(n uint32) {
	p.write = p.write || p.inFlight(&p.devices[n]) // another device may get the name
	p.count(n, -1)
	d := &p.devices[n]
	p.leaveGroup(d)
	delete(p.byName, d.name)
	delete(p.flights, n)
	*d = device{}
	p.free = append(p.free, n)
	p.dirty = true
}

// Report records what a device reports about a revision; empty for that the Deployment left it. It
// counts if it is about what the device was given last, and about its present content.
func (p *Plan) Report(now Moment, name, revision string, o Outcome) {
	p.pass(now)
	n, known := p.byName[name]
	if !known || p.devices[n].is(unknown) || p.revision(p.devices[n].given) != revision || p.devices[n].outcome == o {
		return
	}
	if p.devices[n].given == 0 {
		if p.devices[n].stage == changing && o == Ready {
			p.left(n)
		}
		return
	}
	p.change(n, func(d *device) {
		d.outcome = o
		if o == Failed {
			d.stage = failed
		}
		d.ready = p.now
	})
	p.timeReadiness(n)
}

// left ends the removal from a device.
func (p *Plan) left(n uint32) {
	if p.devices[n].is(matched) { // it belongs there again
		p.change(n, func(d *device) { d.stage = settled })
		return
	}
	p.remove(n)
}

// pass lets time pass: whatever fell due happens.
func (p *Plan) pass(now Moment) {
	p.now = max(p.now, now.Elapsed)
	for e, some := p.readies.first(); some && e.at+p.spec.MinReady <= p.now; e, some = p.readies.first() {
		p.readies.pop()
		switch {
		case !p.isReady(e):
		case p.devices[e.device].given == 0:
			p.left(e.device) // the device had said so before the start
		default:
			p.change(e.device, func(d *device) { d.stage = settled })
		}
	}
	for e, some := p.deadlines.first(); some && e.at+p.spec.Deadline <= p.now; e, some = p.deadlines.first() {
		p.deadlines.pop()
		switch d := &p.devices[e.device]; {
		case !p.isChanging(e):
		case d.given == 0:
			p.left(e.device)
		default:
			p.change(e.device, func(d *device) { d.stage = late })
		}
	}
	for e, some := p.absences.first(); some && p.connected > 0 && max(e.at, p.floor)+absentAfter <= p.now; e, some = p.absences.first() {
		p.absences.pop()
		if p.isGone(e) {
			p.change(e.device, func(d *device) { d.set(away, true) })
		}
	}
}

// isReady, isChanging and isGone report whether it is still so since the time of an entry.
func (p *Plan) isReady(e entry) bool {
	d := &p.devices[e.device]
	return d.life == e.life && d.ready == e.at && d.is(connected) && d.outcome == Ready && d.stage != settled
}

func (p *Plan) isChanging(e entry) bool {
	d := &p.devices[e.device]
	return d.life == e.life && d.since == e.at && d.stage == changing
}

func (p *Plan) isGone(e entry) bool {
	d := &p.devices[e.device]
	return d.life == e.life && d.gone == e.at && !d.is(connected) && !d.is(away)
}

// timer returns when something falls due; zero for never. What is no longer so is forgotten.
func (p *Plan) timer() (at time.Duration) {
	for _, q := range []struct {
		*queue
		still func(entry) bool
		after time.Duration
		floor time.Duration
	}{
		{&p.readies, p.isReady, p.spec.MinReady, 0},
		{&p.deadlines, p.isChanging, p.spec.Deadline, 0},
		{&p.absences, p.isGone, absentAfter, p.floor},
	} {
		e, some := q.first()
		for ; some && !q.still(e); e, some = q.first() {
			q.pop()
		}
		if some && (q.queue != &p.absences || p.connected > 0) {
			at = sooner(at, max(1, max(e.at, q.floor)+q.after))
		}
	}
	return at
}

// sooner is the earlier of two times, of which zero is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Next decides. Nothing is computed while nothing happened and nothing fell due.
func (p *Plan) Next(now Moment) Step {
	p.pass(now)
	if !p.dirty && (p.again == 0 || p.now < p.again) && !p.clockWasSet(now) {
		return Step{Again: p.again}
	}
	p.lookAtWindows(now)
	orders := p.repeat()
	p.blocked = false
	for more := true; more; {
		p.judge()
		some := p.promote()
		orders = append(orders, some...)
		more = len(some) > 0 || p.block()
	}
	p.again = sooner(p.timer(), p.nextTime(now))
	p.dirty = false
	return Step{State: p.toWrite(now), Orders: orders, Again: p.again}
}

// nextTime is when a pause of the open batch ends, or a window opens or closes; zero for never.
func (p *Plan) nextTime(now Moment) (at time.Duration) {
	if p.done && p.batch < len(p.batches) {
		if ends := p.passed + p.batches[p.batch].Pause; ends > p.now {
			at = sooner(at, ends)
		}
	}
	if window := p.nextWindow(); !window.IsZero() {
		at = sooner(at, p.now+min(maxWait, max(window.Sub(now.Wall), time.Millisecond)))
	}
	return at
}

// repeat returns the orders that may not have been carried out before the start. The devices
// have as much time as all have, from now on.
func (p *Plan) repeat() (orders []Order) {
	if p.spec.Paused {
		return nil
	}
	p.repeated = slices.DeleteFunc(p.repeated, func(n uint32) bool {
		d := &p.devices[n]
		if !p.inFlight(d) {
			return true
		}
		if !p.zones[p.classes[d.class].zone].open {
			return false
		}
		p.write = p.write || d.bad()
		p.change(n, func(d *device) { d.stage, d.since = changing, p.now })
		p.deadlines.push(entry{p.now, n, d.life})
		orders = append(orders, Order{d.name, p.revision(d.given)})
		return true
	})
	return orders
}
