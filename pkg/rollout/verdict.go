package rollout

import (
	"fmt"
	"time"
)

// Phase says where a rollout stands.
type Phase string

// Values of Phase.
const (
	// NoRevision: there is nothing that devices may be given.
	NoRevision Phase = "NoRevision"
	// Progressing: devices are being changed, or wait for it.
	Progressing Phase = "Progressing"
	// Paused: the Deployment says so.
	Paused Phase = "Paused"
	// Stopped: too many devices failed.
	Stopped Phase = "Stopped"
	// RollingBack: devices go back to the last revision that was rolled out.
	RollingBack Phase = "RollingBack"
	// RolledBack: all that can be reached went back.
	RolledBack Phase = "RolledBack"
	// Complete: all that can be reached have the revision.
	Complete Phase = "Complete"
)

// Reason is what a rollout waits for.
type Reason string

// Values of Reason.
const (
	ForNothing  Reason = ""
	ForApproval Reason = "Approval"
	ForPause    Reason = "Pause"
	ForWindow   Reason = "Window"
	ForBudget   Reason = "Budget"
	ForGroup    Reason = "Group"
	ForDevices  Reason = "Devices"
	ForReturn   Reason = "Return"
	ForFailures Reason = "Failures"
	ForResume   Reason = "Resume"
	ForRevision Reason = "Revision"
)

// Verdict says where a rollout stands and what it waits for.
type Verdict struct {
	Phase Phase
	// Revision is what devices are brought to.
	Revision string
	// Batch is the number, from 1, of the open batch, of Batches; 0 while none is.
	Batch, Batches int
	// Matched is how many devices the Deployment belongs on. The numbers up to Unknown add
	// up to it. Waiting and Gone were not given the revision: they are connected, or were
	// lately. Reached are changing.
	Matched, Waiting, Gone, Absent, Held, Reached, Succeeded, Failed, Late, Unknown int
	// Leaving is how many devices the Deployment is still to be taken off.
	Leaving int
	// Out of Budget devices may be out, and are.
	Out, Budget int
	// WaitsFor and Message say what the rollout waits for, and Removal what the removals
	// wait for.
	WaitsFor         Reason
	Message, Removal string
	// NextWindow is when a window opens or closes, for devices that wait; zero for never.
	NextWindow time.Time
}

// Verdict says where the rollout stands since Next decided last.
func (p *Plan) Verdict(now Moment) Verdict {
	c := &p.counts
	v := Verdict{
		Revision: p.revision(p.want), Matched: c.matched(), Waiting: c[statusWaiting], Gone: c[statusGone], Absent: c[statusAbsent],
		Held: c[statusHeld], Reached: c[statusReached], Succeeded: c[statusSucceeded], Failed: c[statusFailed], Late: c[statusLate],
		Unknown: c[statusUnknown], Leaving: p.toLeave, Out: p.totals.out, Budget: p.spec.budget(c.all()), NextWindow: p.nextWindow(),
	}
	if p.rolling() {
		v.Batch, v.Batches = p.batch+1, len(p.batches)
	}
	if p.toLeave > 0 && !p.mayLeave() {
		v.Removal = fmt.Sprintf("the Deployment would leave %d of the %d devices that have it, which is more than rollout.maxRemoval: set rollout.approvedRemoval to %d if that is meant", p.toLeave, p.having, p.toLeave)
	}
	v.Phase, v.WaitsFor, v.Message = p.stand(now, &v)
	return v
}

// stand returns the phase, and what the rollout waits for.
func (p *Plan) stand(now Moment, v *Verdict) (Phase, Reason, string) {
	failing := p.failing()
	switch {
	case p.want == 0 && !p.rolledBack:
		return NoRevision, ForRevision, "there is no revision that devices may be given"
	case p.spec.Paused:
		return Paused, ForResume, "rollout.paused is true"
	case p.rolling() && failing != nil:
		return Stopped, ForFailures, p.sayFailing(failing)
	case p.rolling():
		reason, message := p.awaits(now, v)
		return Progressing, reason, message
	}
	moving, still := Progressing, Complete
	if p.rolledBack {
		moving, still = RollingBack, RolledBack
	}
	if p.counts.expected()+p.counts[statusReached]+p.totals.changing == 0 {
		return still, ForNothing, ""
	}
	reason, message := p.awaits(now, v)
	return moving, reason, message
}

// awaits says what devices wait for while nothing stops them.
func (p *Plan) awaits(now Moment, v *Verdict) (Reason, string) {
	of := "the rollout"
	if p.rolling() {
		of = fmt.Sprintf("batch %d of %d", p.batch+1, len(p.batches))
	}
	able, shut := p.ready()
	switch {
	case p.rolling() && p.done && p.pausing() && p.progress[p.batch].changing == 0 && p.batches[p.batch].Approval:
		return ForApproval, fmt.Sprintf("%s is done, and the next waits for approval: set rollout.approvedBatch to %d", of, p.batch+1)
	case p.rolling() && p.done && p.pausing() && p.progress[p.batch].changing == 0:
		return ForPause, fmt.Sprintf("%s is done, and the next begins at %s", of, now.wall(p.passed+p.batches[p.batch].Pause).Format(time.RFC3339))
	case able == 0 && shut > 0:
		if v.NextWindow.IsZero() {
			return ForWindow, of + " waits for a window, and none opens"
		}
		return ForWindow, fmt.Sprintf("%s waits for a window, which opens at %s", of, v.NextWindow.UTC().Format(time.RFC3339))
	case able > 0 && !p.hasRoom(v.Budget):
		return ForBudget, fmt.Sprintf("%s waits for a place: %d devices are out, %d may be%s", of, p.totals.out, v.Budget, p.such())
	case p.totals.changing > 0:
		return ForDevices, fmt.Sprintf("%s waits for %d devices that are changing%s", of, p.totals.changing, p.such())
	case able > 0 && len(p.spec.GroupBy) > 0:
		return ForGroup, fmt.Sprintf("%s waits for a device of the same group%s", of, p.such())
	case v.Gone > 0:
		return ForReturn, fmt.Sprintf("%s waits for the return of %d devices, at most %s", of, v.Gone, absentAfter)
	}
	return ForDevices, fmt.Sprintf("%s waits for devices: of %d matched ones %d are absent, %d are held and of %d nobody knows what they have", of, v.Matched, v.Absent, v.Held, v.Unknown)
}

// ready returns how many devices wait that an open batch takes: those to whom windows are open,
// and those to whom they are shut.
func (p *Plan) ready() (able, shut int) {
	for i := range p.classes {
		switch c := &p.classes[i]; {
		case c.open && c.openZone:
			able += c.counts[statusWaiting]
		case c.open:
			shut += c.counts[statusWaiting]
		}
	}
	return able, shut
}

func (p *Plan) sayFailing(f *failure) string {
	of := "the rollout"
	if f.batch > 0 {
		of = fmt.Sprintf("batch %d of %d", f.batch, len(p.batches))
	}
	what := "fix them or release another revision; rollout.onFailure: Continue goes on in spite of them"
	if p.spec.OnFailure == Rollback {
		what = "there is no revision to go back to: " + what
	}
	return fmt.Sprintf("%d of %d devices that %s reached failed, %d may%s: %s", f.bad, f.reached, of, f.allowed, p.such(), what)
}

// such names one of the devices that were given something and have not settled, the first by
// name, after other words: a bad one if there is one.
func (p *Plan) such() string {
	var shown *device
	for n := range p.flights {
		d := &p.devices[n]
		if shown == nil || d.bad() && !shown.bad() || d.bad() == shown.bad() && d.name < shown.name {
			shown = d
		}
	}
	switch {
	case shown == nil:
		return ""
	case shown.stage == failed:
		return fmt.Sprintf(" (%s failed)", shown.name)
	case shown.stage == late:
		return fmt.Sprintf(" (%s did not become ready in time)", shown.name)
	}
	return fmt.Sprintf(" (such as %s)", shown.name)
}
