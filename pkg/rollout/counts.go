package rollout

// counts is a number for each status.
type counts [statuses]int

// all is how many devices there are.
func (c *counts) all() (n int) {
	for _, each := range c {
		n += each
	}
	return n
}

// matched is how many of them the Deployment belongs on.
func (c *counts) matched() int { return c.all() - c[statusLeaving] }

// reached is how many were given the revision.
func (c *counts) reached() int {
	return c[statusReached] + c[statusSucceeded] + c[statusFailed] + c[statusLate]
}

func (c *counts) bad() int { return c[statusFailed] + c[statusLate] }

// expected is how many the rollout waits for before it may change them.
func (c *counts) expected() int { return c[statusWaiting] + c[statusGone] }

// lacking is how many were not given the revision.
func (c *counts) lacking() int {
	return c.expected() + c[statusAbsent] + c[statusHeld] + c[statusUnknown]
}

// totals are what is counted of the devices of a Plan.
type totals struct {
	counts
	// out is how many take a place in the budget, changing how many of these are changing, and
	// victims how many of them have what they should, and became bad.
	out, changing, victims int
	// broken is how many are waiting and out: they take no place that they do not have.
	broken int
	// toLeave is how many were not told yet that the Deployment leaves them, and leaving how
	// many of these are connected.
	toLeave, leaving int
	// having is how many have, or may have, the Deployment.
	having int
	// connected is how many are.
	connected int
}

// class is what devices have in common that the same batches select, in the same time zone.
type class struct {
	classKey
	counts
	// toLeave and leaving are as in totals.
	toLeave, leaving int
	// open: a device of the class may be given the revision now; openZone: it may be
	// changed now.
	open, openZone bool
}

type classKey struct {
	// mask has a bit for each batch that selects the devices.
	mask uint64
	zone uint32
}

// group is what devices have in common of which one is out at a time.
type group struct {
	key           string
	members       int
	out, changing int
}

// progress is how far a batch is.
type progress struct {
	// taken is how many devices it took, changing and bad how many of these are so now.
	taken, changing, bad int
}

// count adds a device to the counters, or with -1 takes it away.
func (p *Plan) count(n uint32, by int) {
	d := &p.devices[n]
	s, out, t, c := p.status(d), p.out(d), &p.totals, &p.classes[d.class]
	t.counts[s] += by
	c.counts[s] += by
	if out {
		t.out += by
		p.groups[d.group].out += by
		if s == statusWaiting {
			t.broken += by
		}
		if d.bad() && p.current(d) {
			t.victims += by
		}
	}
	if s == statusWaiting || s == statusLeaving {
		p.first = min(p.first, n)
	}
	if d.stage == changing {
		t.changing += by
		p.groups[d.group].changing += by
	}
	if d.is(connected) {
		t.connected += by
	}
	if d.given != 0 || d.is(unknown) {
		t.having += by
	}
	if s == statusLeaving && d.given != 0 {
		t.toLeave += by
		c.toLeave += by
		if d.is(connected) {
			t.leaving += by
			c.leaving += by
		}
	}
	if d.batch > 0 && d.is(matched) && p.current(d) {
		switch b := &p.progress[d.batch-1]; {
		case d.stage == changing:
			b.changing += by
		case d.bad():
			b.bad += by
		}
	}
	// A device that stays in flight between two counts costs no look-up.
	if flies := p.inFlight(d); by > 0 && flies != d.is(flying) {
		d.set(flying, flies)
		if flies {
			p.flights[n] = struct{}{}
		} else {
			delete(p.flights, n)
		}
	}
}

// change changes a device between two counts.
func (p *Plan) change(n uint32, f func(*device)) {
	p.count(n, -1)
	d := &p.devices[n]
	before := p.inFlight(d)
	wasBad := d.bad()
	f(d)
	p.count(n, 1)
	p.dirty = true
	switch after := p.inFlight(d); {
	case after && d.bad() && !wasBad:
		p.write = true // it must not be taken for one that is still changing
	case before != after:
		p.settledSince = true
	}
}

// recount counts everything anew, after what the counts depend on changed.
func (p *Plan) recount() {
	p.totals = totals{}
	for i := range p.classes {
		p.classes[i] = class{classKey: p.classes[i].classKey}
	}
	for i := range p.groups {
		p.groups[i].out, p.groups[i].changing = 0, 0
	}
	for i := range p.progress {
		p.progress[i].changing, p.progress[i].bad = 0, 0
	}
	for n := range p.devices {
		if p.devices[n].name != "" {
			p.count(uint32(n), 1)
		}
	}
	p.dirty = true
}

// classify puts a device, which is not counted, into its class and group.
func (p *Plan) classify(n uint32) {
	d := &p.devices[n]
	d.class = p.classOf(classKey{p.mask(d.labels), p.zoneOf(d.zoneName)})
	p.leaveGroup(d)
	if d.group = p.groupOf(d.labels); d.group != 0 {
		p.groups[d.group].members++
	}
}

func (p *Plan) classOf(k classKey) uint32 {
	c, known := p.classNumbers[k]
	if !known {
		c = uint32(len(p.classes))
		p.classes = append(p.classes, class{classKey: k})
		p.classNumbers[k] = c
	}
	return c
}

// mask has a bit for each batch that selects a device with the labels.
func (p *Plan) mask(labels map[string]string) (mask uint64) {
	for i := range p.batches {
		if p.batches[i].Selector.Matches(labels) {
			mask |= 1 << i
		}
	}
	return mask
}

// groupOf returns the number of the group of a device; 0 for none.
func (p *Plan) groupOf(labels map[string]string) uint32 {
	if len(p.spec.GroupBy) == 0 {
		return 0
	}
	var key []byte
	for _, k := range p.spec.GroupBy {
		value, has := labels[k]
		if !has {
			return 0
		}
		key = append(append(key, value...), 0) // values have no NUL
	}
	g, known := p.groupNumbers[string(key)]
	switch {
	case known:
	case len(p.freeGroups) > 0:
		last := len(p.freeGroups) - 1
		g, p.freeGroups = p.freeGroups[last], p.freeGroups[:last]
		p.groups[g] = group{key: string(key)}
		p.groupNumbers[string(key)] = g
	default:
		g = uint32(len(p.groups))
		p.groups = append(p.groups, group{key: string(key)})
		p.groupNumbers[string(key)] = g
	}
	return g
}

// leaveGroup takes a device out of its group, which nobody knows any more after its last
// member.
func (p *Plan) leaveGroup(d *device) {
	if d.group == 0 {
		return
	}
	g := &p.groups[d.group]
	if g.members--; g.members == 0 {
		delete(p.groupNumbers, g.key)
		p.freeGroups = append(p.freeGroups, d.group)
	}
	d.group = 0
}
