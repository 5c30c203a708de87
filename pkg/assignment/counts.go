package assignment

import (
	"container/heap"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Failure is the newest failure among the devices of a Deployment.
type Failure struct {
	Device      string
	Error       string
	LastEventAt time.Time
}

// Counts are the numbers of a Deployment's aggregate.
type Counts struct {
	Matched, Succeeded, Failed, Pending, Offline int
	// Outdated is how many of those that are pending have an agent that lacks what
	// the Deployment needs.
	Outdated int
	Newest   *Failure
	// Progress is what one device is fetching; nil when none says.
	Progress *Progress
	// Refusal is why the score is not accepted; none when it is.
	Refusal Refusal
	// Generation is that of the Deployment which these are the counts of.
	Generation int64
}

// report is what many devices say of Deployments.
type report struct {
	phase               wire.Phase
	hash, secretsDigest string
}

// failure is a report of PhaseFailed. It counts only while it is about what was
// issued, and is kept meanwhile.
type failure struct {
	Failure
	// place is that among the failures that count, if it does.
	place int
}

// failures are those of one Deployment.
type failures struct {
	reported map[uint32]*failure // by number of the device
	counted  newest
}

func (f *failures) report(device uint32, reported Failure) {
	if f.reported == nil {
		f.reported = map[uint32]*failure{}
	}
	f.reported[device] = &failure{Failure: reported}
}

// forget forgets a failure that does not count.
func (f *failures) forget(device uint32) { delete(f.reported, device) }

// newest is a heap of failures. Names break ties, so that the choice does not
// flutter.
type newest []*failure

func (h newest) Len() int { return len(h) }

func (h newest) Less(i, j int) bool {
	if a, b := h[i].LastEventAt, h[j].LastEventAt; !a.Equal(b) {
		return a.After(b)
	}
	return h[i].Device < h[j].Device
}

func (h newest) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *newest) Push(x any) {
	f := x.(*failure)
	f.place = len(*h)
	*h = append(*h, f)
}

func (h *newest) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return f
}

// count adds a target to the counts of its Deployment, or with -1 takes it away.
func (t *Table) count(dep *deployment, dev *device, x target, by int) {
	if !x.is(wanted) || x.is(reserved) {
		return
	}
	c := &dep.counts
	c.Matched += by
	if dev.offline {
		c.Offline += by
	}
	if x.is(outdated) {
		c.Outdated += by
	}
	switch t.phase(x) {
	case wire.PhaseRunning:
		c.Succeeded += by
	case wire.PhaseFailed:
		c.Failed += by
		dep.failures.count(dep.failure(dev, x), by)
	default:
		c.Pending += by
	}
}

func (f *failures) count(failed *failure, by int) {
	if by > 0 {
		heap.Push(&f.counted, failed)
	} else {
		heap.Remove(&f.counted, failed.place)
	}
}

// failure is why a target failed.
func (d *deployment) failure(dev *device, x target) *failure {
	if x.is(refused) {
		return d.problems[dev.number]
	}
	return d.reported[dev.number]
}

// phase is that of the report if it counts: if it is about what was issued. What cannot be
// rendered has failed.
func (t *Table) phase(x target) wire.Phase {
	if x.is(refused) {
		return wire.PhaseFailed
	}
	if x.report == 0 || x.is(hold|former) {
		return wire.PhasePending
	}
	r, issued := t.reports.value(x.report), t.entries.value(x.issued)
	if r.hash != issued.Hash || r.secretsDigest != issued.SecretsDigest {
		return wire.PhasePending
	}
	return r.phase
}

// Aggregate counts the devices of a Deployment. It returns false for a
// Deployment that the table does not have.
func (t *Table) Aggregate(ref wire.DeploymentRef) (c Counts, accepted, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	dep := t.deployments[ref]
	if dep == nil || !dep.known {
		return Counts{}, false, false
	}
	c = dep.counts
	c.Generation, c.Refusal = dep.generation, dep.refusal
	if len(dep.counted) > 0 {
		shown := dep.counted[0].Failure
		c.Newest = &shown
	}
	c.Progress = dep.progress
	return c, dep.accepted, true
}

// EachCounts calls f with the counts of each Deployment, without the newest failure.
// The table is locked meanwhile: f must be quick, and ask nothing of the table.
func (t *Table) EachCounts(f func(c Counts, accepted bool)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, dep := range t.deployments {
		if dep.known {
			f(dep.counts, dep.accepted)
		}
	}
}
