package rollout_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/rollout"
)

// How many random steps there are; `make soak` sets more.
var modelSteps = fromEnv("FLEET_ROLLOUT_STEPS", 20_000)

// storySteps is how many steps a story has, after which everything must come to rest.
const storySteps = 250

func fromEnv(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// TestAgainstAModel lets rollouts go through random stories: devices come, go, fail, fall silent
// and are cut off by what they are given; reports are lost; specs and targets change; the
// controllers restart, before or after what they decided was written or carried out; the bus
// is lost; clocks are set. A Plan decides what naive decides. No budget and no group is
// exceeded, nothing happens while it is paused, and in the end every device that can be reached
// has what it should.
func TestAgainstAModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(max(1, modelSteps/storySteps)) {
		m := newModel(t, seed)
		for step := 0; step < storySteps && !t.Failed(); step++ {
			m.step()
		}
		if !t.Failed() {
			m.rest()
		}
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, strings.Join(m.story[max(0, len(m.story)-fromEnv("FLEET_ROLLOUT_STORY", 40)):], "\n"))
		}
	}
}

// thing is a device as it is.
type thing struct {
	rollout.Facts
	// issued is what the bus says that it should have, has what it has, outcome what became of
	// it, and told whether it said so.
	issued, has string
	outcome     rollout.Outcome
	told        bool
	// cut: what it has cut it off. lost: the bus forgot what it was issued.
	cut, lost bool
	// stale: what it is issued is of an earlier content.
	stale bool
	// well: it was neither failing nor in change when it was given what it is issued.
	well bool
}

// flight is a device that was given something, as anybody would see it.
type flight struct {
	revision string
	at       time.Duration
}

type model struct {
	t      *testing.T
	random *rand.Rand
	story  []string
	now    rollout.Moment

	spec   rollout.Spec
	target rollout.Target
	things map[string]*thing
	joined int

	plan  *rollout.Plan
	naive *naive
	// state is what was written.
	state rollout.State
	// flights are the devices in change of which everybody must know, by the name.
	flights map[string]flight
	// repeated are the devices whose orders were decided before a restart.
	repeated map[string]bool
	// calm: nothing fails any more. rested is for how many minutes, busy whether something was
	// ordered.
	calm, busy bool
	rested     int
	// mostBudget is the largest budget while a revision was the target.
	mostBudget map[string]int
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		t: t, random: rand.New(rand.NewPCG(seed, 1)), now: rollout.Moment{Wall: start, Elapsed: time.Hour}, //nolint:gosec // a story that can be told again
		things: map[string]*thing{}, flights: map[string]flight{}, mostBudget: map[string]int{}, target: rollout.Target{Revision: "good-0"},
	}
	if m.chance(2) {
		m.state = rollout.State{Revision: "good-0", Released: "good-0"}
	}
	for range m.random.IntN(12) {
		m.join()
	}
	m.spec = m.drawSpec()
	m.restart()
	return m
}

// chance is true once in so many times, and never when the story has ended.
func (m *model) chance(in int) bool { return m.random.IntN(in) == 0 && !m.calm }

func (m *model) say(format string, args ...any) {
	m.story = append(m.story, fmt.Sprintf(format, args...))
}

func (m *model) names() []string { return slices.Sorted(maps.Keys(m.things)) }

// any returns one of the devices; nil when there is none.
func (m *model) any() *thing {
	if len(m.things) == 0 {
		return nil
	}
	return m.things[m.names()[m.random.IntN(len(m.things))]]
}

func pick[T any](m *model, of ...T) T { return of[m.random.IntN(len(of))] }

func (m *model) drawAmount(numbers ...int) rollout.Amount {
	if m.chance(2) {
		return rollout.Amount{N: pick(m, 10, 30, 50, 100), Percent: true}
	}
	return rollout.Amount{N: pick(m, numbers...)}
}

func (m *model) drawSpec() rollout.Spec {
	s := rollout.Spec{
		MaxUnavailable: m.drawAmount(1, 2, 3), MinReady: pick(m, 0, 0, 30*time.Second), Deadline: pick(m, 2*time.Minute, 10*time.Minute),
		OnFailure: pick(m, rollout.Pause, rollout.Pause, rollout.Rollback, rollout.Rollback, rollout.Continue),
		Removal:   pick(m, rollout.RemoveImmediately, rollout.RemoveWithinBudget), Paused: m.chance(12), ApprovedBatch: m.random.IntN(3),
	}
	for range m.random.IntN(3) {
		b := rollout.Batch{Approval: m.chance(4), Tolerance: pick(m, 0, 0, 25, 50)}
		if m.chance(2) {
			b.Selector = ring(pick(m, "a", "b"))
		}
		if m.chance(2) {
			limit := m.drawAmount(1, 2, 4)
			b.Limit = &limit
		}
		if m.chance(4) {
			b.Pause = 7 * time.Minute
		}
		s.Batches = append(s.Batches, b)
	}
	if m.chance(3) {
		s.GroupBy = pick(m, []string{"store"}, []string{"store", "ring"})
	}
	if m.chance(4) {
		threshold := m.drawAmount(0, 1, 3)
		s.FailureThreshold = &threshold
	}
	if m.chance(3) {
		most := m.drawAmount(0, 1, 3)
		s.MaxRemoval, s.ApprovedRemoval = &most, m.random.IntN(3)
	}
	for range max(0, m.random.IntN(6)-3) {
		s.Windows = append(s.Windows, rollout.Window{
			Cron: "0 " + pick(m, "*", "3", "9") + " * * *", TimeZone: pick(m, "", "Asia/Tokyo"), OfDevice: m.chance(2), Duration: pick(m, 20*time.Minute, 3*time.Hour),
		})
	}
	return s
}

func (m *model) drawLabels() map[string]string {
	labels := map[string]string{"ring": pick(m, "a", "b", "c")}
	if !m.chance(5) {
		labels["store"] = pick(m, "x", "y", "z")
	}
	return labels
}

// join adds a device, which may have something already.
func (m *model) join() *thing {
	name := fmt.Sprintf("d%02d", m.joined)
	m.joined++
	d := &thing{Facts: rollout.Facts{
		Name: name, Labels: m.drawLabels(), Zone: pick(m, "", "Europe/Zurich", "America/New_York", "nowhere"), Matched: !m.chance(8), Connected: m.chance(2), Held: m.chance(10),
	}}
	if !m.chance(3) {
		d.issued, d.has, d.outcome, d.told = "good-0", "good-0", rollout.Ready, true
	}
	m.things[name] = d
	return d
}

// facts are what the controllers know of a device.
func (m *model) facts(d *thing) rollout.Facts {
	f := d.Facts
	if d.lost && !d.told {
		f.Unknown = true
		return f
	}
	f.Given = d.issued
	if d.told && d.has == d.issued {
		f.Outcome = d.outcome
	}
	return f
}

func (m *model) set(d *thing) {
	m.plan.Set(m.now, m.facts(d))
	m.naive.Set(m.now, m.facts(d))
	d.Changed = false
}

// restart begins anew with what was written.
func (m *model) restart() {
	setup := rollout.Setup{Spec: m.spec, Target: m.target}
	data, err := json.Marshal(m.state)
	if err == nil {
		err = json.Unmarshal(data, &setup.State)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range m.names() {
		if d := m.things[name]; d.Matched || d.issued != "" || d.lost || names(&m.state, name) {
			f := m.facts(d)
			f.Changed = d.stale
			setup.Devices = append(setup.Devices, f)
		}
	}
	m.plan, m.naive = rollout.New(m.now, setup), newNaive(m.now, setup)
}

func (m *model) step() {
	switch m.random.IntN(22) {
	case 0, 1, 2:
		m.pass(pick(m, time.Second, 30*time.Second, time.Minute, 5*time.Minute, 11*time.Minute, time.Hour))
	case 3:
		m.now.Wall = m.now.Wall.Add(pick(m, -48*time.Hour, -time.Hour, time.Hour, 24*time.Hour))
		m.say("the clock is set to %s", m.now.Wall)
	case 4, 5:
		if d := m.any(); d != nil {
			m.connect(d, !d.Connected)
		}
	case 6:
		is := m.chance(2)
		for _, name := range m.names() { // a crowd
			if !m.chance(4) {
				m.connect(m.things[name], is)
			}
		}
	case 7, 8, 9, 10, 11:
		for _, name := range m.names() {
			if m.chance(2) {
				m.work(m.things[name], m.chance(10))
			}
		}
	case 12:
		if d := m.any(); d != nil {
			m.breakOrHeal(d)
		}
	case 13:
		if m.chance(2) {
			m.retarget(rollout.Target{Revision: fmt.Sprint(pick(m, "good", "good", "bad", "cut", "half", "slow"), "-", m.random.IntN(3)), NoWayBack: m.chance(8)})
		}
	case 14:
		m.edit()
	case 15:
		m.say("restart")
		m.restart()
	case 16:
		if m.chance(4) {
			m.loseBus()
		}
	case 17:
		m.say("%s joins", m.join().Name)
		m.set(m.things[fmt.Sprintf("d%02d", m.joined-1)])
	case 18:
		if d := m.any(); d != nil && m.chance(2) {
			m.remove(d)
		}
	case 19, 20:
		if d := m.any(); d != nil {
			m.changeFacts(d)
		}
	}
	m.decide()
}

func (m *model) pass(d time.Duration) {
	m.now = rollout.Moment{Wall: m.now.Wall.Add(d), Elapsed: m.now.Elapsed + d}
	if !m.calm {
		m.say("%s pass", d)
	}
}

func (m *model) connect(d *thing, is bool) {
	if d.Connected == is || is && d.cut {
		return
	}
	m.say("%s connects: %v", d.Name, is)
	d.Connected = is
	m.set(d)
}

// kind is what a revision does to a device.
func (m *model) kind(d *thing) string {
	kind, _, _ := strings.Cut(d.has, "-")
	if kind == "half" {
		return []string{"good", "bad"}[len(d.Name+d.Labels["ring"])%2]
	}
	return kind
}

// work lets a device fetch what it is issued, and say what became of it.
func (m *model) work(d *thing, lost bool) {
	if !d.Connected || d.lost && d.told {
		return
	}
	if d.has != d.issued && !d.lost {
		d.has, d.told, d.outcome = d.issued, false, rollout.Pending
		m.say("%s fetches %q", d.Name, d.has)
		if m.kind(d) == "cut" && !m.calm {
			d.cut = true
			m.connect(d, false)
			return
		}
		if m.chance(3) {
			return // it takes its time
		}
	}
	if d.outcome == rollout.Pending {
		d.outcome, d.told = map[string]rollout.Outcome{"bad": rollout.Failed, "slow": rollout.Pending}[m.kind(d)], false
		if d.outcome == rollout.Pending && m.kind(d) != "slow" {
			d.outcome = rollout.Ready
		}
	}
	if d.told || lost {
		return
	}
	m.say("%s reports %q: %d", d.Name, d.has, d.outcome)
	d.told = true
	if d.lost { // what it has is what it was given
		d.lost, d.issued = false, d.has
		m.set(d)
		return
	}
	m.report(d)
}

func (m *model) report(d *thing) {
	m.plan.Report(m.now, d.Name, d.has, d.outcome)
	m.naive.Report(m.now, d.Name, d.has, d.outcome)
	if f, flies := m.flights[d.Name]; flies && f.revision == d.has && (d.outcome == rollout.Failed || d.outcome == rollout.Ready) {
		delete(m.flights, d.Name)
	}
	if d.has == "" && d.issued == "" && !d.Matched {
		d.told = true
	}
}

// breakOrHeal lets what ran well fail on a device, or what failed run.
func (m *model) breakOrHeal(d *thing) {
	if d.has == "" || d.has != d.issued || d.lost || !d.Connected {
		return
	}
	d.outcome, d.told = pick(m, rollout.Ready, rollout.Failed, rollout.Pending), true
	m.say("%s is %d now", d.Name, d.outcome)
	m.report(d)
}

func (m *model) retarget(t rollout.Target) {
	m.say("the target is %+v", t)
	m.target = t
	m.plan.SetTarget(m.now, t)
	m.naive.SetTarget(m.now, t)
}

func (m *model) edit() {
	s := m.spec
	switch fresh := m.drawSpec(); m.random.IntN(4) {
	case 0:
		s = fresh
	case 1:
		s.Paused = !s.Paused
	case 2:
		s.ApprovedBatch++
	case 3:
		s.MaxUnavailable, s.OnFailure, s.Windows = fresh.MaxUnavailable, fresh.OnFailure, fresh.Windows
	}
	m.setSpec(s)
}

func (m *model) setSpec(s rollout.Spec) {
	m.expire()
	data, _ := json.Marshal(s) //nolint:errchkjson // for people
	m.say("the spec is %s", data)
	m.spec = s
	m.plan.SetSpec(m.now, s)
	m.naive.SetSpec(m.now, s)
}

// loseBus has the bus forget what devices were issued. Those of which the API store tells are
// known.
func (m *model) loseBus() {
	m.say("the bus is lost")
	for _, d := range m.things {
		d.lost, d.told = true, false
	}
	for _, f := range m.state.Flights {
		for _, name := range f.Devices {
			if d := m.things[name]; d != nil {
				d.lost, d.issued = false, f.Revision
			}
		}
	}
	m.restart()
}

func (m *model) remove(d *thing) {
	m.say("%s is deleted", d.Name)
	delete(m.things, d.Name)
	delete(m.flights, d.Name)
	if m.naive.named(d.Name) != nil {
		m.plan.Remove(m.now, d.Name)
		m.naive.Remove(m.now, d.Name)
	}
}

func (m *model) changeFacts(d *thing) {
	switch m.random.IntN(6) {
	case 0, 1:
		d.Matched = !d.Matched
	case 2:
		d.Held = !d.Held
	case 3:
		d.Labels = m.drawLabels()
	case 4:
		d.Changed, d.stale = true, true
	case 5:
		d.Zone = pick(m, "", "Asia/Tokyo")
	}
	m.say("%s is %+v now", d.Name, d.Facts)
	if !d.Matched && d.issued == "" && !d.lost && m.naive.named(d.Name) == nil {
		d.Changed = false
		return
	}
	m.set(d)
}

// expire ends flights whose deadline has passed.
func (m *model) expire() {
	maps.DeleteFunc(m.flights, func(_ string, f flight) bool { return f.at+m.spec.Deadline <= m.now.Elapsed })
}

// decide has both decide, and carries out what was decided unless somebody fails.
func (m *model) decide() {
	m.expire()
	before := m.plan.Verdict(m.now).Budget // devices may leave after others were ordered to change
	step := m.plan.Next(m.now)
	verdict := m.plan.Verdict(m.now)
	m.repeated = map[string]bool{}
	for _, r := range m.naive.repeated {
		m.repeated[r.Name] = true
	}
	orders := m.naive.Next(m.now)
	if diff := cmp.Diff(orders, step.Orders); diff != "" {
		m.t.Errorf("naive and the Plan decide (-naive +Plan):\n%s", diff)
	}
	if diff := cmp.Diff(m.naive.statuses(), ofVerdict(verdict)); diff != "" {
		m.t.Errorf("naive and the Plan count (-naive +Plan):\n%s", diff)
	}
	if m.naive.rolling() != (verdict.Batch > 0) || m.naive.rolling() && m.naive.batch+1 != verdict.Batch || m.naive.want != verdict.Revision {
		m.t.Errorf("naive wants %s in batch %d, the Plan %s in %d", m.naive.want, m.naive.batch+1, verdict.Revision, verdict.Batch)
	}
	if verdict.Phase != rollout.Complete && verdict.Phase != rollout.RolledBack && verdict.Message == "" {
		m.t.Errorf("%s, and does not say what it waits for", verdict.Phase)
	}
	if len(step.Orders) > 0 {
		m.say("ordered: %v", step.Orders)
	}
	if len(step.Orders) > 0 {
		m.busy = true
	}
	m.check(step, max(before, verdict.Budget))
	again := m.plan.Next(m.now)
	if again.State != nil || again.Orders != nil {
		m.t.Errorf("decided again at once: %+v", again)
	}
	if step.State == nil && len(step.Orders) == 0 {
		return
	}
	if m.chance(15) {
		m.say("the API is away")
		m.restart()
		return
	}
	if step.State != nil {
		m.state = *step.State
	}
	m.fly(step.Orders)
	if m.chance(20) {
		m.say("restart between writing and carrying out")
		m.restart()
		return
	}
	m.carryOut(step.Orders)
}

// carryOut carries out what was written.
func (m *model) carryOut(orders []rollout.Order) {
	for _, o := range orders {
		d := m.things[o.Device]
		if o.Revision != d.issued {
			d.well = d.told && d.has == d.issued && (d.has == "" || d.outcome == rollout.Ready)
		}
		d.issued, d.lost, d.stale = o.Revision, false, false
		if d.has == d.issued { // it has to look anyway
			d.has = "anything"
		}
		if o.Revision == "" && m.naive.named(o.Device) == nil {
			delete(m.flights, o.Device)
		}
	}
}

// fly notes which devices are in change from now on.
func (m *model) fly(orders []rollout.Order) {
	for _, o := range orders {
		if written(&m.state, o) {
			m.flights[o.Device] = flight{o.Revision, m.now.Elapsed}
		}
	}
}

// check holds what was decided against what anybody can see.
func (m *model) check(step rollout.Step, budget int) {
	if len(step.Orders) > 0 && m.spec.Paused {
		m.t.Errorf("ordered while it is paused: %v", step.Orders)
	}
	flying, added := maps.Clone(m.flights), []string{}
	for _, o := range step.Orders {
		if m.naive.named(o.Device) == nil { // removed immediately
			delete(flying, o.Device)
			continue
		}
		if _, flies := flying[o.Device]; !flies && !m.repeated[o.Device] {
			added = append(added, o.Device)
		}
		flying[o.Device] = flight{}
	}
	m.mostBudget[m.target.Revision] = max(m.mostBudget[m.target.Revision], budget)
	if len(added) > 0 && len(flying) > budget {
		m.t.Errorf("%d devices are in change, and %d may be: %v", len(flying), budget, slices.Sorted(maps.Keys(flying)))
	}
	if !m.spec.Paused {
		for _, name := range added {
			for other := range flying {
				a, b := m.things[name], m.things[other]
				if a != b && b != nil && sameGroup(m.spec.GroupBy, a.Labels, b.Labels) && slices.Contains(added, other) {
					m.t.Errorf("%s and %s of one group are in change", name, other)
				}
			}
		}
	}
	for _, o := range step.Orders {
		d := m.things[o.Device]
		immediate := o.Revision == "" && m.spec.Removal == rollout.RemoveImmediately
		if !d.Connected && !immediate && !m.repeated[o.Device] {
			m.t.Errorf("%s is given %q while it is away", o.Device, o.Revision)
		}
	}
	cut := 0 // those that were out already are no harm done by this revision, and of some nobody knows any more
	for _, d := range m.things {
		if kind, _, _ := strings.Cut(m.target.Revision, "-"); kind == "cut" && d.cut && d.well && !d.lost && d.has == m.target.Revision && d.issued == d.has && d.Matched {
			cut++
		}
	}
	if most := m.mostBudget[m.target.Revision]; cut > most {
		m.t.Errorf("%d devices are cut off, and %d may be out", cut, most)
	}
}

// rest ends the story: a good revision, nobody pauses, everything is approved, and whoever can
// be reached comes back. One in four stays away for good.
func (m *model) rest() {
	m.say("the story ends")
	m.calm = true
	s := m.spec
	s.Paused, s.Windows, s.ApprovedBatch, s.MaxRemoval = false, nil, 100, nil
	m.setSpec(s)
	if m.target.Revision == "good-end" {
		m.t.Fatal("the last revision is new")
	}
	m.retarget(rollout.Target{Revision: "good-end"})
	away := map[string]bool{}
	for i, name := range m.names() {
		d := m.things[name]
		if d.cut, d.Held = false, false; i%4 == 3 {
			away[name] = true
			m.connect(d, false)
		} else {
			m.connect(d, true)
		}
		m.set(d)
	}
	for quiet := 0; quiet < 30; quiet++ {
		if m.rested++; m.rested > 1000 {
			m.t.Error("it does not come to rest")
		}
		m.pass(time.Minute)
		for _, name := range m.names() {
			m.work(m.things[name], false)
		}
		m.busy = false
		if m.decide(); m.busy {
			quiet = 0
		}
		if m.t.Failed() {
			return
		}
	}
	reachable := 0
	for name, d := range m.things {
		want := "good-end"
		if !d.Matched {
			want = ""
		} else if !away[name] {
			reachable++
		}
		if !away[name] && d.has != want {
			m.t.Errorf("%s has %q in the end, want %q", name, d.has, want)
		}
	}
	v := m.plan.Verdict(m.now)
	if left := v.Waiting + v.Gone + v.Reached + v.Failed + v.Late; reachable > 0 && (left > 0 || v.Absent == 0 && v.Phase != rollout.Complete) {
		m.t.Errorf("in the end it is %s: %s: %+v", v.Phase, v.Message, v)
	}
}
