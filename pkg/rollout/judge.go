package rollout

import "math"

// rolling reports whether the target is being rolled out in batches. Once it was, devices that
// return, join or change are bound by the budget alone, as everybody is in a rollback.
func (p *Plan) rolling() bool { return !p.rolledBack && p.goal != 0 && p.goal != p.released }

// quota is how many of n devices a batch takes.
func (b *Batch) quota(n int) int {
	if b.Limit == nil {
		return math.MaxInt
	}
	return max(1, b.Limit.up(n))
}

// judge opens the batches that follow those which are done, ends the rollout after the last,
// or has it rolled back.
func (p *Plan) judge() {
	if p.spec.Paused {
		return
	}
	for p.rolling() {
		switch {
		case p.failing() != nil:
			if !p.mayRollBack() {
				return
			}
			p.rolledBack, p.want, p.write = true, p.released, true
			p.recount()
		case p.counts.lacking() == 0 && p.counts[statusReached] == 0 && p.counts.reached() > 0:
			p.release() // also when a pause is left, or an approval
		case !p.isDone():
			return
		case p.counts[statusReached] == 0 && p.counts.reached() > 0 && p.later(statusWaiting, statusGone, statusAbsent, statusHeld, statusUnknown) == 0:
			p.release() // nobody is left for a later batch
		// A batch that might get more devices stays open as long as nobody waits for a later
		// one: when all devices are away, as after a fault of the network, no batch is skipped.
		case p.batch == len(p.batches)-1, p.couldGetMore() && p.later(statusWaiting) == 0, p.pausing():
			return
		default:
			p.batch++
			p.done, p.blocked, p.write = false, false, true
		}
	}
}

// release ends the rollout: the target is what a later one goes back to.
func (p *Plan) release() { p.released, p.write = p.goal, true }

// mayRollBack reports whether failures send the devices back.
func (p *Plan) mayRollBack() bool {
	return p.spec.OnFailure == Rollback && p.released != 0 && !p.target.NoWayBack
}

// failure is why a rollout stops.
type failure struct {
	// batch is its number, from 1; 0 for all of them.
	batch int
	// bad of reached devices failed or are late, and at most allowed may.
	bad, reached, allowed int
}

// failing returns why the rollout stops; nil when it doesn't. A batch stops it as soon as it
// cannot become good any more, and as long as those that failed are not well.
func (p *Plan) failing() *failure {
	if p.spec.OnFailure == Continue {
		return nil
	}
	if t := p.spec.FailureThreshold; t != nil {
		reached := p.counts.reached()
		if allowed := t.down(reached); p.counts.bad() > allowed {
			return &failure{0, p.counts.bad(), reached, allowed}
		}
	}
	for i := range p.batch + 1 {
		b := &p.progress[i]
		size := b.taken
		if i < p.batch || !p.filled() || b.changing > 0 {
			size = max(size, p.size(i))
		}
		if allowed := size * p.batches[i].Tolerance / 100; b.bad > allowed {
			return &failure{i + 1, b.bad, b.taken, allowed}
		}
	}
	return nil
}

// size is how many devices a batch will have at most.
func (p *Plan) size(batch int) (n int) {
	if p.batches[batch].Limit != nil {
		return p.batches[batch].quota(p.counts.matched())
	}
	for i := range p.classes {
		if c := &p.classes[i]; c.mask>>batch&1 != 0 {
			n += c.matched()
		}
	}
	return n
}

// filled reports whether the open batch gets no further device: it has all that it takes, or
// nobody is left whom it could wait for.
func (p *Plan) filled() bool { return p.full(p.batch) || p.expected(p.batch) == 0 || p.blocked }

// block notes that the open batch waits in vain, and reports whether that is news: what is out in
// a group may be of a later batch, and be helped by it.
func (p *Plan) block() bool {
	if p.blocked || !p.rolling() || p.spec.Paused || len(p.spec.GroupBy) == 0 || p.changing > 0 || !p.hasRoom(p.spec.budget(p.counts.all())) {
		return false
	}
	able, shut := p.ready()
	p.blocked = able > 0 && shut == 0
	return p.blocked
}

// couldGetMore reports whether the open batch has room for a device that lacks the revision,
// wherever that is.
func (p *Plan) couldGetMore() bool {
	if p.full(p.batch) {
		return false
	}
	for i := range p.classes {
		if c := &p.classes[i]; c.mask>>p.batch&1 != 0 && c.lacking() > 0 {
			return true
		}
	}
	return false
}

func (p *Plan) full(batch int) bool {
	return p.progress[batch].taken >= p.batches[batch].quota(p.counts.matched())
}

// expected is how many devices a batch could still take.
func (p *Plan) expected(batch int) (n int) {
	for i := range p.classes {
		if c := &p.classes[i]; c.mask>>batch&1 != 0 {
			n += c.expected()
		}
	}
	return n
}

// isDone reports whether the open batch is done, and notes since when.
func (p *Plan) isDone() bool {
	if !p.filled() || p.progress[p.batch].changing > 0 || p.counts.reached() == 0 && p.counts.expected() == 0 {
		return false
	}
	if !p.done {
		p.done, p.passed, p.write = true, p.now, true
	}
	return true
}

// later is how many devices of these statuses no open batch takes.
func (p *Plan) later(of ...status) (n int) {
	open := p.openBatches()
	for i := range p.classes {
		if c := &p.classes[i]; c.mask&open == 0 {
			for _, s := range of {
				n += c.counts[s]
			}
		}
	}
	return n
}

// openBatches has a bit for each batch that takes devices now.
func (p *Plan) openBatches() (open uint64) {
	for i := range p.batch + 1 {
		if !p.full(i) {
			open |= 1 << i
		}
	}
	return open
}

// pausing reports whether the next batch waits although the open one is done.
func (p *Plan) pausing() bool {
	b := &p.batches[p.batch]
	return b.Approval && p.spec.ApprovedBatch <= p.batch || p.now < p.passed+b.Pause
}
