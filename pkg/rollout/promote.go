package rollout

// promote gives devices what they should have, as far as it may.
func (p *Plan) promote() (orders []Order) {
	if p.spec.Paused {
		return nil
	}
	if p.toLeave > 0 && p.spec.Removal != RemoveWithinBudget && p.mayLeave() {
		orders = p.withdrawAll()
	}
	if !p.openClasses() {
		return orders
	}
	// Devices that are out already take no place from others, and may be helped by it.
	if p.broken > 0 || p.leaving > 0 {
		orders = p.look(orders, true)
	}
	if p.hasRoom(p.spec.budget(p.counts.all())) && p.openClasses() {
		orders = p.look(orders, false)
	}
	return orders
}

// openClasses says of each class whether a device of it may be given something now, and reports
// whether that is so of a device that waits.
func (p *Plan) openClasses() (some bool) {
	p.open = ^uint64(0)
	switch {
	case p.want == 0, p.rolling() && p.failing() != nil:
		p.open = 0
	case p.rolling():
		p.open = p.openBatches()
	}
	leave := p.spec.Removal == RemoveWithinBudget && p.mayLeave()
	for i := range p.classes {
		c := &p.classes[i]
		c.openZone = p.zones[c.zone].open
		c.open = c.mask&p.open != 0
		waiting := c.open && (c.openZone || p.rolledBack) && c.counts[statusWaiting] > 0
		some = some || waiting || leave && c.openZone && c.leaving > 0
	}
	return some
}

// look gives devices what they should have, one after the other: those that are out, or the
// others.
func (p *Plan) look(orders []Order, out bool) []Order {
	budget, leave := p.spec.budget(p.counts.all()), p.spec.Removal == RemoveWithinBudget && p.mayLeave()
	for n := p.passOver(); n < len(p.devices); n++ {
		d := &p.devices[n]
		if !p.isNext(d, leave) || p.out(d) != out {
			continue
		}
		if !out && !p.hasRoom(budget) {
			break
		}
		if !p.fits(d, out, budget) {
			continue
		}
		revision := uint32(0)
		if d.is(matched) {
			revision = p.want
		}
		orders = append(orders, Order{d.name, p.revision(revision)})
		p.give(uint32(n), revision)
	}
	return orders
}

// passOver returns the number of the first device that may wait for something.
func (p *Plan) passOver() int {
	for int(p.first) < len(p.devices) {
		d := &p.devices[p.first]
		if s := p.status(d); d.name != "" && (s == statusWaiting || s == statusLeaving) {
			break
		}
		p.first++
	}
	return int(p.first)
}

// isNext reports whether a device waits for something that it may be given now.
func (p *Plan) isNext(d *device, leave bool) bool {
	switch {
	case !d.is(connected) || d.is(unknown):
		return false
	case !d.is(matched):
		return leave && d.given != 0
	}
	return p.lacks(d) && !d.is(held) && p.classes[d.class].mask&p.open != 0
}

// fits reports whether windows, groups and the budget leave a place for a device. Of a device
// that is out the place is its own, unless too many are changing.
func (p *Plan) fits(d *device, out bool, budget int) bool {
	c, g := &p.classes[d.class], &p.groups[d.group]
	// A rollback ends what was begun: a device that is out need not wait for the next window.
	if !c.openZone && !(p.rolledBack && out && d.is(matched)) {
		return false
	}
	if !out {
		return p.hasRoom(budget) && (d.group == 0 || g.out == 0)
	}
	own := 0
	if d.stage == changing {
		own = 1
	}
	return p.changing-own < budget && (d.group == 0 || g.changing-own == 0)
}

// hasRoom reports whether a device that is not out may be. If devices that this rollout has nothing
// to do with take all places, it goes on one device at a time: it may be what helps them, and
// they may be of a later batch.
func (p *Plan) hasRoom(budget int) bool {
	return p.totals.out < budget || p.changing+p.victims == 0
}

// give gives a device a revision; 0 takes the Deployment off it.
func (p *Plan) give(n, revision uint32) {
	batch := p.take(&p.devices[n]) // while the device is counted
	p.change(n, func(d *device) {
		d.batch = batch
		d.given, d.since, d.ready, d.outcome, d.stage = revision, p.now, p.now, Pending, changing
		d.set(changed, false)
	})
	p.deadlines.push(entry{p.now, n, p.devices[n].life})
	p.write = true
}

// take returns the number, from 1, of the batch that takes a device, the first that has a place
// for it. It is the batch that took it before if there is one.
func (p *Plan) take(d *device) uint8 {
	if !p.rolling() || !d.is(matched) || d.batch > 0 && d.given == p.want {
		return d.batch
	}
	for i := range p.batch + 1 {
		if p.classes[d.class].mask>>i&1 == 0 || p.full(i) {
			continue
		}
		b := &p.progress[i]
		if b.taken == 0 && i == p.batch {
			p.done = false // a batch that nobody could be waited for has somebody now
		}
		if b.taken++; p.full(i) {
			p.open &^= 1 << i
		}
		return uint8(i + 1)
	}
	return 0
}

// mayLeave reports whether the Deployment may leave as many devices as it no longer belongs on.
func (p *Plan) mayLeave() bool {
	m := p.spec.MaxRemoval
	return m == nil || p.toLeave <= m.down(p.having) || p.toLeave <= p.spec.ApprovedRemoval
}

// withdrawAll takes the Deployment off all devices that it no longer belongs on, also those
// that are away, and forgets them.
func (p *Plan) withdrawAll() (orders []Order) {
	for n := range p.devices {
		d := &p.devices[n]
		if d.name == "" || d.is(matched) || d.is(unknown) || d.given == 0 || !p.zones[p.classes[d.class].zone].open {
			continue
		}
		orders = append(orders, Order{Device: d.name})
		p.remove(uint32(n))
	}
	return orders
}
