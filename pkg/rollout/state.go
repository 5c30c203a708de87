package rollout

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// State is what has to outlive the process. It is written before what was decided is carried
// out, and stands in the API store: devices that it names are taken for changed, whether they
// learned of it or not.
type State struct {
	// Revision is the target, and Released the last one whose rollout ended well.
	Revision string `json:"revision,omitempty"`
	Released string `json:"released,omitempty"`
	// RolledBack: Revision failed, and devices go back to Released.
	RolledBack bool `json:"rolledBack,omitempty"`
	// Batches changes with who belongs to which batch. Batch is the number, from 0, of the
	// one that is open, Taken how many devices each took, Passed since when the open one is
	// done, if it is.
	Batches string     `json:"batches,omitempty"`
	Batch   int        `json:"batch,omitempty"`
	Taken   []int      `json:"taken,omitempty"`
	Passed  *time.Time `json:"passed,omitempty"`
	// Flights are the devices that were given something and have not settled.
	Flights []Flight `json:"flights,omitempty"`
}

// Flight names devices that were given the same.
type Flight struct {
	// Revision is empty when the Deployment leaves the devices.
	Revision string `json:"revision,omitempty"`
	// Batch is the number, from 1, of the batch that took them; 0 for none.
	Batch int `json:"batch,omitempty"`
	// Failed or Late is what became of them so far.
	Failed bool `json:"failed,omitempty"`
	Late   bool `json:"late,omitempty"`
	// Devices are their names, ordered.
	Devices []string `json:"devices"`
}

// Rest is the Spec by which a rollout ends of which the Deployment says nothing any more: its
// devices do not all follow at once. It returns false when there is nothing to be ended.
func (s *State) Rest() (Spec, bool) {
	rest := Default()
	if s.RolledBack {
		rest.OnFailure = Rollback
	}
	return rest, s.Revision != s.Released
}

func (f *Flight) compare(o *Flight) int {
	bit := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	return cmp.Or(strings.Compare(f.Revision, o.Revision), f.Batch-o.Batch, bit(f.Failed)-bit(o.Failed), bit(f.Late)-bit(o.Late))
}

// toWrite returns the State if it has to be written. That devices settled can wait until
// something else has to be, or all have: one that is taken for changing reports again.
func (p *Plan) toWrite(now Moment) *State {
	if !p.write && (!p.settledSince || len(p.flights) > 0) {
		return nil
	}
	p.write, p.settledSince = false, false
	return p.state(now)
}

// wall returns what clocks on the wall showed at an earlier time, to the second.
func (now Moment) wall(at time.Duration) time.Time {
	return now.Wall.Add(at - now.Elapsed).UTC().Truncate(time.Second)
}

func (p *Plan) state(now Moment) *State {
	s := &State{
		Revision: p.target.Revision, Released: p.revision(p.released), RolledBack: p.rolledBack,
		Batches: p.key, Batch: p.batch,
	}
	for i := range p.progress {
		s.Taken = append(s.Taken, p.progress[i].taken)
	}
	if p.done {
		passed := now.wall(p.passed)
		s.Passed = &passed
	}
	for n := range p.flights {
		d := &p.devices[n]
		f := Flight{Revision: p.revision(d.given), Batch: int(d.batch), Failed: d.stage == failed, Late: d.stage == late}
		i, found := slices.BinarySearchFunc(s.Flights, &f, func(a Flight, b *Flight) int { return a.compare(b) })
		if !found {
			s.Flights = slices.Insert(s.Flights, i, f)
		}
		s.Flights[i].Devices = append(s.Flights[i].Devices, d.name)
	}
	for i := range s.Flights {
		slices.Sort(s.Flights[i].Devices)
	}
	return s
}

// restore takes a State over into devices that are not counted yet.
func (p *Plan) restore(now Moment, s *State) {
	same := s.Revision == p.target.Revision
	if same && s.RolledBack && p.spec.OnFailure == Rollback {
		p.rolledBack, p.want = true, p.released
	}
	for i := range s.Flights {
		for _, name := range s.Flights[i].Devices {
			if n, known := p.byName[name]; known {
				p.resume(n, &s.Flights[i])
			}
		}
	}
	if !same || s.Batches != p.key || len(s.Taken) != len(p.progress) || s.Batch < 0 || s.Batch >= len(p.batches) || s.RolledBack != p.rolledBack {
		p.begin()
		return
	}
	p.batch = s.Batch
	for i, taken := range s.Taken {
		p.progress[i].taken = max(0, taken)
	}
	if s.Passed != nil {
		p.done, p.passed = true, p.now-max(0, now.Wall.Sub(*s.Passed))
	}
}

// resume takes over what was decided about a device. It has as much time as if it was decided now:
// it has to connect first, and what the clock on the wall says of the time between may be wrong.
func (p *Plan) resume(n uint32, f *Flight) {
	d := &p.devices[n]
	given := p.number(f.Revision)
	if d.is(unknown|changed) || d.given != given {
		d.set(unknown|changed, false)
		d.given, d.outcome = given, Pending
		p.repeated = append(p.repeated, n)
	}
	d.since = p.now
	if d.batch = 0; f.Batch > 0 && f.Batch <= len(p.batches) {
		d.batch = uint8(f.Batch)
	}
	switch {
	case f.Failed || d.outcome == Failed:
		d.stage = failed
	case f.Late:
		d.stage = late
	default:
		d.stage = changing
		p.deadlines.push(entry{p.now, n, d.life})
	}
}
