package rollout_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/rollout"
)

// fleet is devices with a plan. Its clocks are set by the tests.
type fleet struct {
	t     testing.TB
	spec  rollout.Spec
	now   rollout.Moment
	plan  *rollout.Plan
	state rollout.State
	facts map[string]*rollout.Facts
	last  rollout.Step
	says  rollout.Verdict
}

// start is a Monday.
var start = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// newFleet is a fleet of n devices that are connected and run revision r0.
func newFleet(t testing.TB, n int, spec rollout.Spec) *fleet {
	f := &fleet{t: t, spec: spec, now: rollout.Moment{Wall: start, Elapsed: time.Hour}, facts: map[string]*rollout.Facts{}}
	for i := range n {
		name := fmt.Sprintf("d%02d", i)
		f.facts[name] = &rollout.Facts{
			Name: name, Matched: true, Connected: true, Given: "r0", Outcome: rollout.Ready,
			Labels: map[string]string{"store": fmt.Sprint("s", i/3), "ring": []string{"canary", "stable"}[min(i, 1)]},
		}
	}
	f.state = rollout.State{Revision: "r0", Released: "r0"}
	f.restart("r0")
	return f
}

// restart begins anew with what was written, and what devices have.
func (f *fleet) restart(revision string) {
	setup := rollout.Setup{Spec: f.spec, Target: rollout.Target{Revision: revision}, State: f.state}
	for _, name := range f.names() {
		setup.Devices = append(setup.Devices, *f.facts[name])
	}
	f.plan = rollout.New(f.now, setup)
}

func (f *fleet) names() []string {
	names := make([]string, 0, len(f.facts))
	for name := range f.facts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (f *fleet) target(revision string) { f.plan.SetTarget(f.now, rollout.Target{Revision: revision}) }

func (f *fleet) edit(edit func(*rollout.Spec)) {
	edit(&f.spec)
	f.plan.SetSpec(f.now, f.spec)
}

// next has the plan decide, and carries its orders out.
func (f *fleet) next() (ordered string) {
	f.t.Helper()
	f.last = f.plan.Next(f.now)
	f.says = f.plan.Verdict(f.now)
	if f.last.State != nil {
		f.state = *f.last.State
	}
	var names []string
	for _, o := range f.last.Orders {
		if o.Revision != "" && !written(&f.state, o) {
			f.t.Errorf("%v is ordered and not written: %+v", o, f.state)
		}
		names = append(names, o.Device)
		f.facts[o.Device].Given, f.facts[o.Device].Outcome = o.Revision, rollout.Pending
	}
	return strings.Join(names, " ")
}

// written reports whether a State tells of an order.
func written(s *rollout.State, o rollout.Order) bool {
	return slices.ContainsFunc(s.Flights, func(f rollout.Flight) bool { return f.Revision == o.Revision && slices.Contains(f.Devices, o.Device) })
}

// names reports whether a State tells of a device.
func names(s *rollout.State, device string) bool {
	return slices.ContainsFunc(s.Flights, func(f rollout.Flight) bool { return slices.Contains(f.Devices, device) })
}

// expect has the plan decide for these devices, and no others.
func (f *fleet) expect(devices ...string) {
	f.t.Helper()
	if got, want := f.next(), strings.Join(devices, " "); got != want {
		f.t.Errorf("ordered %q, want %q: %s", got, want, f.says.Message)
	}
}

func (f *fleet) verdict(phase rollout.Phase, reason rollout.Reason, says string) {
	f.t.Helper()
	v := f.says
	if v.Phase != phase || v.WaitsFor != reason || !strings.Contains(v.Message, says) {
		f.t.Errorf("%s, waits for %q: %q; want %s, %q: %q", v.Phase, v.WaitsFor, v.Message, phase, reason, says)
	}
}

func (f *fleet) wait(d time.Duration) { f.now.Wall, f.now.Elapsed = f.now.Wall.Add(d), f.now.Elapsed+d }

func (f *fleet) report(o rollout.Outcome, devices ...string) {
	for _, name := range devices {
		f.facts[name].Outcome = o
		f.plan.Report(f.now, name, f.facts[name].Given, o)
	}
}

func (f *fleet) ready(devices ...string) { f.report(rollout.Ready, devices...) }

func (f *fleet) change(name string, change func(*rollout.Facts)) {
	change(f.facts[name])
	f.plan.Set(f.now, *f.facts[name])
}

func (f *fleet) connect(is bool, devices ...string) {
	for _, name := range devices {
		f.change(name, func(d *rollout.Facts) { d.Connected = is })
	}
}

// strict has no time to wait for.
func strict(edit func(*rollout.Spec)) rollout.Spec {
	s := rollout.Default()
	s.MinReady, s.MaxUnavailable = 0, rollout.Amount{N: 2}
	if edit != nil {
		edit(&s)
	}
	return s
}

func ring(name string) assignment.Selector {
	return assignment.Selector{Requirements: []assignment.Requirement{{Key: "ring", Operator: assignment.In, Values: []string{name}}}}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, strict(nil))
	f.expect()
	f.verdict(rollout.Complete, rollout.ForNothing, "")
	f.target("r1")
	f.expect("d00", "d01")
	f.verdict(rollout.Progressing, rollout.ForBudget, "2 devices are out, 2 may be (such as d00)")
	f.expect()
	f.ready("d01")
	f.expect("d02")
	f.ready("d00", "d02")
	f.expect("d03", "d04")
	f.ready("d03")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForDevices, "1 devices that are changing (such as d04)")
	f.ready("d04")
	f.expect()
	f.verdict(rollout.Complete, rollout.ForNothing, "")
	if f.state.Released != "r1" || f.state.Flights != nil {
		t.Errorf("written is %+v", f.state)
	}
}

// A device that is broken takes a place, and may be helped.
func TestBrokenDevicesGoFirst(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, strict(nil))
	f.report(rollout.Failed, "d03")
	f.report(rollout.Pending, "d04")
	f.expect()
	f.target("r1")
	f.expect("d03", "d04")
	f.ready("d04")
	f.expect("d00")
}

func TestBatches(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 10, strict(func(s *rollout.Spec) {
		s.MaxUnavailable = rollout.Amount{N: 10}
		s.Batches = []rollout.Batch{
			{Selector: ring("canary"), Approval: true},
			{Limit: &rollout.Amount{N: 25, Percent: true}, Pause: time.Hour},
		}
	}))
	f.target("r1")
	f.expect("d00")
	f.ready("d00")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForApproval, "batch 1 of 3 is done, and the next waits for approval: set rollout.approvedBatch to 1")
	f.edit(func(s *rollout.Spec) { s.ApprovedBatch = 1 })
	f.expect("d01", "d02", "d03")
	f.ready("d01", "d02")
	f.expect()
	f.ready("d03")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForPause, "2026-03-02T13:00:00Z")
	if f.last.Again != f.now.Elapsed+time.Hour {
		t.Errorf("asks again after %s", f.last.Again-f.now.Elapsed)
	}
	f.wait(time.Hour - time.Second)
	f.expect()
	f.wait(time.Second)
	f.expect("d04", "d05", "d06", "d07", "d08", "d09")
	f.ready("d04", "d05", "d06", "d07", "d08", "d09")
	f.expect()
	f.verdict(rollout.Complete, rollout.ForNothing, "")
}

func TestAFailureStopsTheRollout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, strict(nil))
	f.target("r1")
	f.expect("d00", "d01")
	f.report(rollout.Failed, "d00")
	f.ready("d01")
	f.expect()
	f.verdict(rollout.Stopped, rollout.ForFailures, "1 of 2 devices that batch 1 of 1 reached failed, 0 may (d00 failed)")
	f.report(rollout.Pending, "d00") // it tries again, and is not well for that
	f.expect()
	f.ready("d00")
	f.expect("d02", "d03")
}

// A revision that cuts devices off stops where it began, although nobody reports a failure.
func TestAnUpdateThatCutsDevicesOffStops(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 10, strict(nil))
	f.target("r1")
	f.expect("d00", "d01")
	f.connect(false, "d00", "d01")
	f.expect()
	f.wait(10*time.Minute - time.Second)
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForBudget, "2 devices are out")
	f.wait(time.Second)
	f.expect()
	f.verdict(rollout.Stopped, rollout.ForFailures, "(d00 did not become ready in time)")
	f.target("r2") // repairs it; who was cut off is absent by now, and blocks nobody
	f.expect("d02", "d03")
	f.connect(true, "d00")
	f.expect()
	f.ready("d02")
	f.expect("d00")
}

func TestRollbackEndsWhereItBegan(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 6, strict(func(s *rollout.Spec) { s.OnFailure = rollout.Rollback }))
	f.target("r1")
	f.expect("d00", "d01")
	f.ready("d00", "d01")
	f.expect("d02", "d03")
	f.ready("d02")
	f.report(rollout.Failed, "d03")
	f.expect("d03", "d00") // the one that is out goes first
	f.verdict(rollout.RollingBack, rollout.ForBudget, "")
	f.restart("r1")
	f.expect()
	f.ready("d00", "d03")
	f.expect("d01", "d02")
	f.ready("d01", "d02")
	f.expect()
	f.verdict(rollout.RolledBack, rollout.ForNothing, "")
	for name, d := range f.facts {
		if d.Given != "r0" {
			t.Errorf("%s ends with %s", name, d.Given)
		}
	}
	f.edit(func(s *rollout.Spec) { s.OnFailure = rollout.Pause }) // tries again
	f.expect("d00", "d01")
}

// What has nothing to go back to stops.
func TestRollbackWithoutAWayBackStops(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, strict(func(s *rollout.Spec) { s.OnFailure = rollout.Rollback }))
	f.plan.SetTarget(f.now, rollout.Target{Revision: "r1", NoWayBack: true})
	f.expect("d00", "d01")
	f.report(rollout.Failed, "d00")
	f.expect()
	f.verdict(rollout.Stopped, rollout.ForFailures, "there is no revision to go back to")
}

func TestContinueIsBoundByTheBudget(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, strict(func(s *rollout.Spec) { s.OnFailure = rollout.Continue }))
	f.target("r1")
	f.expect("d00", "d01")
	f.report(rollout.Failed, "d00")
	f.ready("d01")
	f.expect("d02")
	f.report(rollout.Failed, "d02")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForBudget, "(d00 failed)")
}

func TestTolerance(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 10, strict(func(s *rollout.Spec) {
		s.MaxUnavailable = rollout.Amount{N: 3}
		s.Batches = []rollout.Batch{{Limit: &rollout.Amount{N: 4}, Tolerance: 25}}
	}))
	f.target("r1")
	f.expect("d00", "d01", "d02")
	f.report(rollout.Failed, "d01")
	f.ready("d00", "d02")
	f.expect("d03") // the fourth of the batch
	f.ready("d03")
	f.expect("d04", "d05") // d01 keeps its place
	f.report(rollout.Failed, "d04")
	f.expect()
	f.verdict(rollout.Stopped, rollout.ForFailures, "batch 2 of 2")
}

func TestFailureThreshold(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 10, strict(func(s *rollout.Spec) {
		s.MaxUnavailable = rollout.Amount{N: 4}
		s.Batches = []rollout.Batch{{Tolerance: 100}}
		s.FailureThreshold = &rollout.Amount{N: 1}
	}))
	f.target("r1")
	f.expect("d00", "d01", "d02", "d03")
	f.report(rollout.Failed, "d00")
	f.ready("d01", "d02")
	f.expect("d04", "d05")
	f.report(rollout.Failed, "d03")
	f.expect()
	f.verdict(rollout.Stopped, rollout.ForFailures, "2 of 6 devices that the rollout reached failed, 1 may")
}

func TestAbsentDevicesBlockNobody(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 6, strict(func(s *rollout.Spec) {
		s.Batches = []rollout.Batch{{Selector: ring("canary")}, {Limit: &rollout.Amount{N: 2}}}
	}))
	f.connect(false, "d00", "d01", "d02")
	f.target("r1")
	f.expect() // the canary went away just now
	f.verdict(rollout.Progressing, rollout.ForReturn, "batch 1 of 3 waits for the return of 3 devices")
	f.wait(10 * time.Minute)
	f.expect("d03", "d04")
	f.ready("d03", "d04")
	f.expect("d05")
	f.connect(true, "d00", "d01", "d02") // a crowd returns under the same budget
	f.expect("d00")
	f.ready("d00", "d05")
	f.expect("d01", "d02")
	f.ready("d01", "d02")
	f.expect()
	f.verdict(rollout.Complete, rollout.ForNothing, "")
}

// When all are away, as after a restart or a fault of the network, no batch is skipped.
func TestNobodyIsNoReasonToGoOn(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, strict(func(s *rollout.Spec) { s.Batches = []rollout.Batch{{Selector: ring("canary")}} }))
	f.target("r1")
	f.connect(false, "d00", "d01", "d02")
	f.expect()
	f.wait(24 * time.Hour)
	f.expect()
	f.connect(true, "d01", "d02") // before the canary
	f.expect()
	f.restart("r1")
	f.wait(10*time.Minute - time.Second)
	f.expect()
	f.connect(true, "d00")
	f.expect("d00")
}

// The pause after a batch is one after its first device has it.
func TestPauseAfterABatchThatNobodyWasIn(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, strict(func(s *rollout.Spec) { s.Batches = []rollout.Batch{{Selector: ring("canary"), Pause: time.Hour}} }))
	f.connect(false, "d00")
	f.target("r1")
	f.wait(10 * time.Minute)
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForPause, "13:10:00Z")
	f.wait(50 * time.Minute)
	f.connect(true, "d00")
	f.expect("d00")
	f.ready("d00")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForPause, "14:00:00Z")
	f.wait(time.Hour)
	f.expect("d01")
}

func TestPausedChangesNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, strict(func(s *rollout.Spec) { s.OnFailure = rollout.Rollback }))
	f.target("r1")
	f.expect("d00", "d01")
	f.edit(func(s *rollout.Spec) { s.Paused = true })
	f.report(rollout.Failed, "d00")
	f.ready("d01")
	f.expect()
	f.verdict(rollout.Paused, rollout.ForResume, "rollout.paused")
	f.restart("r1")
	f.expect()
	f.edit(func(s *rollout.Spec) { s.Paused = false })
	f.expect("d00", "d01")
	f.verdict(rollout.RollingBack, rollout.ForDevices, "")
}

func TestGroups(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 7, strict(func(s *rollout.Spec) {
		s.MaxUnavailable, s.GroupBy, s.OnFailure = rollout.Amount{N: 10}, []string{"store"}, rollout.Continue
	}))
	f.change("d06", func(d *rollout.Facts) { d.Labels = nil }) // in no group
	f.connect(false, "d05")
	f.target("r1")
	f.expect("d00", "d03", "d06")
	f.verdict(rollout.Progressing, rollout.ForDevices, "")
	f.ready("d00")
	f.report(rollout.Failed, "d03")
	f.expect("d01")
	f.ready("d01")
	f.expect("d02")
	f.ready("d02", "d06")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForGroup, "(d03 failed)")
}

// A box that is broken keeps the others of its store from being changed, and its own batch may
// come later: that batch is not held up for ever.
func TestGroupsAndBatches(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 6, strict(func(s *rollout.Spec) {
		s.GroupBy, s.Batches = []string{"store"}, []rollout.Batch{{Selector: ring("canary")}, {Limit: &rollout.Amount{N: 1}}}
	}))
	f.report(rollout.Failed, "d02") // of the canary's store
	f.target("r1")
	f.expect("d02") // by the second batch
	f.ready("d02")
	f.expect("d00", "d03")
}

func TestANewScoreInTheMiddle(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, strict(nil))
	f.target("r1")
	f.expect("d00", "d01")
	f.ready("d00")
	f.target("r2")
	f.expect("d01", "d00") // d01 keeps its place
	f.ready("d00", "d01")
	f.expect("d02", "d03")
	for name, d := range f.facts {
		if d.Given != "r2" {
			t.Errorf("%s has %s", name, d.Given)
		}
	}
}

func TestEditsKeepProgress(t *testing.T) {
	t.Parallel()
	one := rollout.Amount{N: 1}
	f := newFleet(t, 6, strict(func(s *rollout.Spec) { s.Batches = []rollout.Batch{{Limit: &one}, {Limit: &one}} }))
	f.target("r1")
	f.expect("d00")
	f.ready("d00")
	f.expect("d01")
	f.ready("d01")
	f.expect("d02", "d03")
	f.edit(func(s *rollout.Spec) {
		s.Batches = []rollout.Batch{{Limit: &rollout.Amount{N: 3}, Approval: true}, {Limit: &one}}
	})
	f.ready("d02", "d03")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForApproval, "batch 1 of 3")
	f.edit(func(s *rollout.Spec) { s.ApprovedBatch = 1 })
	f.expect("d04", "d05")
}

func TestChangedDevicesTakeAPlace(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, strict(nil))
	for _, name := range f.names() {
		f.change(name, func(d *rollout.Facts) { d.Changed = true })
		f.facts[name].Changed = false
	}
	f.expect("d00", "d01")
	f.verdict(rollout.Progressing, rollout.ForBudget, "")
	f.ready("d00", "d01")
	f.expect("d02", "d03")
	f.ready("d02", "d03")
	f.expect()
	f.verdict(rollout.Complete, rollout.ForNothing, "")
}

func TestLateJoiners(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, strict(func(s *rollout.Spec) { s.Batches = []rollout.Batch{{Selector: ring("canary"), Approval: true}} }))
	f.expect()
	for i := range 3 {
		name := fmt.Sprint("new", i)
		f.facts[name] = &rollout.Facts{Name: name, Matched: true, Connected: true}
		f.plan.Set(f.now, *f.facts[name])
	}
	f.expect("new0", "new1")
	f.ready("new0", "new1")
	f.expect("new2")
}

// The first rollout of a Deployment waits for devices rather than end without any.
func TestFirstRollout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0, strict(func(s *rollout.Spec) {
		s.Batches, s.OnFailure = []rollout.Batch{{Selector: ring("canary"), Approval: true}}, rollout.Rollback
	}))
	f.state = rollout.State{}
	f.restart("r1")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForDevices, "of 0 matched ones")
	for i, ring := range []string{"stable", "canary"} {
		name := fmt.Sprint("new", i)
		f.facts[name] = &rollout.Facts{Name: name, Labels: map[string]string{"ring": ring}, Matched: true, Connected: true}
		f.plan.Set(f.now, *f.facts[name])
	}
	f.expect("new1")
	f.report(rollout.Failed, "new1")
	f.expect()
	f.verdict(rollout.Stopped, rollout.ForFailures, "there is no revision to go back to")
}

func TestHeldAndUnknownDevicesAreGivenNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, strict(func(s *rollout.Spec) { s.Batches = []rollout.Batch{{Selector: ring("canary")}} }))
	f.change("d00", func(d *rollout.Facts) { d.Held = true })
	f.facts["d01"].Unknown = true
	f.restart("r0")
	f.target("r1")
	f.expect("d02", "d03")
	f.ready("d02", "d03")
	f.expect()
	if v := f.says; v.Held != 1 || v.Unknown != 1 || v.Phase != rollout.Complete {
		t.Errorf("the verdict is %+v", v)
	}
	f.change("d00", func(d *rollout.Facts) { d.Held = false })
	f.change("d01", func(d *rollout.Facts) { d.Unknown = false })
	f.expect("d00", "d01")
}

func TestMinReady(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, strict(func(s *rollout.Spec) { s.MinReady, s.MaxUnavailable = 30*time.Second, rollout.Amount{N: 1} }))
	f.target("r1")
	f.expect("d00")
	f.ready("d00")
	f.wait(29 * time.Second)
	f.expect()
	f.connect(false, "d00")
	f.wait(time.Minute)
	f.expect()
	f.connect(true, "d00")
	f.wait(29 * time.Second)
	f.expect()
	if f.last.Again != f.now.Elapsed+time.Second {
		t.Errorf("asks again after %s", f.last.Again-f.now.Elapsed)
	}
	f.wait(time.Second)
	f.expect("d01")
}

func TestRemoval(t *testing.T) {
	t.Parallel()
	leave := func(f *fleet, devices ...string) {
		for _, name := range devices {
			f.change(name, func(d *rollout.Facts) { d.Matched = false })
		}
	}
	t.Run("immediately", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, 6, strict(nil))
		f.connect(false, "d01")
		leave(f, "d00", "d01", "d02", "d03")
		f.expect("d00", "d01", "d02", "d03")
		f.expect()
	})
	t.Run("within the budget", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, 6, strict(func(s *rollout.Spec) { s.Removal = rollout.RemoveWithinBudget }))
		f.connect(false, "d01")
		leave(f, "d00", "d01", "d02", "d03")
		f.expect("d00", "d02")
		f.ready("d00")
		f.expect("d03")
		f.wait(10 * time.Minute) // nobody waits longer for a word of it
		f.expect()
		f.connect(true, "d01")
		f.expect("d01")
	})
	t.Run("too many", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, 6, strict(func(s *rollout.Spec) { s.MaxRemoval = &rollout.Amount{N: 50, Percent: true} }))
		leave(f, "d00", "d01", "d02", "d03")
		f.expect()
		if want := "the Deployment would leave 4 of the 6 devices that have it, which is more than rollout.maxRemoval: set rollout.approvedRemoval to 4 if that is meant"; f.says.Removal != want {
			t.Errorf("says %q", f.says.Removal)
		}
		f.edit(func(s *rollout.Spec) { s.ApprovedRemoval = 4 })
		f.expect("d00", "d01", "d02", "d03")
	})
	t.Run("belongs there again", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, 2, strict(func(s *rollout.Spec) { s.Removal = rollout.RemoveWithinBudget }))
		leave(f, "d00")
		f.expect("d00")
		f.change("d00", func(d *rollout.Facts) { d.Matched = true })
		f.expect("d00")
		if f.facts["d00"].Given != "r0" {
			t.Errorf("it is given %q", f.facts["d00"].Given)
		}
	})
}

// What was written and not carried out is ordered again; what was not written never was.
func TestRestartBetweenWritingAndCarryingOut(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, strict(nil))
	f.target("r1")
	written := *f.plan.Next(f.now).State // the process ends before the orders are carried out
	f.restart("r1")
	f.expect("d00", "d01")
	for _, name := range f.names() {
		f.facts[name].Given, f.facts[name].Outcome = "r0", rollout.Ready
	}
	f.state = written
	f.restart("r1")
	f.expect("d00", "d01")
	f.expect()
	f.wait(time.Minute)
	f.restart("r1") // carried out this time
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForBudget, "")
}

// The same holds for another content of the revision that a device has.
func TestRestartAfterAChange(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, strict(nil))
	for _, name := range f.names() {
		f.change(name, func(d *rollout.Facts) { d.Changed = true })
	}
	f.state = *f.plan.Next(f.now).State
	f.spec.MaxUnavailable = rollout.Amount{N: 1}
	f.restart("r0") // before two have it, which are in change all the same
	f.expect("d00", "d01")
	f.ready("d00")
	f.expect()
	f.ready("d01")
	f.expect("d02")
}

// A device that was deleted is forgotten, so that another one may have its name.
func TestRestartAfterADeletion(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, strict(nil))
	f.target("r1")
	f.expect("d00", "d01")
	f.plan.Remove(f.now, "d00")
	delete(f.facts, "d00")
	f.expect("d02")
	f.plan.Remove(f.now, "d02")
	delete(f.facts, "d02")
	f.edit(func(s *rollout.Spec) { s.Paused = true })
	f.expect()
	if names(&f.state, "d00") || names(&f.state, "d02") || !names(&f.state, "d01") {
		t.Errorf("written is %+v", f.state)
	}
}

// A device that was given something before a restart has time to connect, and one that was
// late is so still.
func TestRestartAndDeadlines(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, strict(nil))
	f.target("r1")
	f.expect("d00", "d01")
	f.connect(false, "d00", "d01")
	f.now.Wall = f.now.Wall.Add(24 * time.Hour)
	f.restart("r1")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForBudget, "")
	f.wait(10 * time.Minute)
	f.expect()
	f.verdict(rollout.Stopped, rollout.ForFailures, "d00 did not become ready in time")
	f.restart("r1")
	f.expect()
	f.verdict(rollout.Stopped, rollout.ForFailures, "d00 did not become ready in time")
	f.connect(true, "d00", "d01")
	f.ready("d00", "d01")
	f.expect("d02", "d03")
}

// A clock that is set makes nobody late.
func TestClockThatIsSet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, strict(func(s *rollout.Spec) { s.Batches = []rollout.Batch{{Selector: ring("canary"), Pause: time.Hour}} }))
	f.target("r1")
	f.expect("d00")
	f.now.Wall = f.now.Wall.Add(1000 * time.Hour)
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForDevices, "")
	f.ready("d00")
	f.expect()
	f.now.Wall = f.now.Wall.Add(-2000 * time.Hour)
	f.wait(59 * time.Minute)
	f.expect()
	f.restart("r1") // by the wall clock the batch will be done in weeks: the pause begins anew
	f.expect()
	f.wait(time.Hour)
	f.expect("d01", "d02")
}

func TestDroppedRollouts(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 10, strict(func(s *rollout.Spec) { s.OnFailure = rollout.Rollback }))
	f.target("r1")
	f.expect("d00", "d01")
	rest, some := f.state.Rest()
	if want := rollout.Default(); !some || !cmp.Equal(want, rest) {
		t.Errorf("%v, ends by %+v", some, rest)
	}
	f.edit(func(s *rollout.Spec) { *s = rest })
	f.ready("d00", "d01")
	f.wait(10 * time.Second)
	f.expect("d02")
	f.edit(func(s *rollout.Spec) { s.OnFailure = rollout.Rollback })
	f.report(rollout.Failed, "d02")
	f.expect("d02")
	if rest, some = f.state.Rest(); !some || rest.OnFailure != rollout.Rollback {
		t.Errorf("%v, a rollback ends by %+v", some, rest)
	}
	f.target("r0")
	f.expect()
	if _, some = f.state.Rest(); some {
		t.Error("what ended is not ended")
	}
}

// Nothing is computed while nothing happens.
func TestIdle(t *testing.T) {
	f := newFleet(t, 100, strict(nil))
	f.target("r1")
	f.expect("d00", "d01")
	if n := testing.AllocsPerRun(100, func() {
		f.wait(time.Second)
		f.plan.Set(f.now, *f.facts["d07"])
		f.plan.Report(f.now, "d07", "r0", rollout.Ready)
		f.plan.Next(f.now)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
