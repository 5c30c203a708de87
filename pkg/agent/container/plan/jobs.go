package plan

import (
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/schedule"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Job is what is known of a service on a schedule.
type Job struct {
	schedule.Run

	// Next is when it runs next; zero for never.
	Next time.Time
	// Past are the last runs, the newest first.
	Past []schedule.Past
}

// job does what is to be done for a service on a schedule.
func (c *changes) job(v *view, s *slot) {
	job := c.w.Runs[s.spec.Service]
	c.again = earliest(c.again, job.Next)
	c.images = appendNew(c.images, Action{Kind: Pull, Image: s.spec.Image}) // its time may come without a network
	switch {
	case !job.Active():
	case s.serving != nil:
		c.run(s, s.serving)
	case !job.Begun:
		if what, again := v.waits(s, true); what != "" {
			c.again = earliest(c.again, again)
			c.waiting = true
			return
		}
		for _, o := range s.stale {
			c.removals = append(c.removals, Action{Kind: Remove, Container: o})
		}
		c.make(s.spec)
		c.rest = append(c.rest, Action{Kind: Create, Spec: s.spec})
	}
}

// judgeJob judges a service on a schedule: it is well while it waits for its time, unless its
// last run failed.
func (s *slot) judgeJob(v *view) (phase wire.Phase, why string, again time.Time) {
	job := v.w.Runs[s.spec.Service]
	again = job.Next
	failure := job.Failure
	if c := s.serving; job.Active() && c != nil {
		if _, why := Outcome(s.spec, c); why != "" {
			failure = why
		}
		if at, must := startAt(s.spec.Restart, c); must && !at.IsZero() {
			again = earliest(again, at)
		}
		_, end := s.overdue(c, v.now)
		again = earliest(again, end)
	}
	if failure != "" {
		return wire.PhaseFailed, "the last run " + failure, again
	}
	return wire.PhaseRunning, "", again
}

// Outcome reports whether a run of a job is over, and how it failed; empty when it did not.
func Outcome(spec *container.Spec, c *container.Container) (done bool, failure string) {
	if !c.Ended() {
		return false, ""
	}
	_, again := startAt(spec.Restart, c)
	switch {
	case c.Interrupted() && !again:
		failure = "was interrupted when the device went down"
	case c.Interrupted():
	case c.ExitCode != 0 || c.Last.Unwell != "":
		failure = exited(last(c), c.Restarts)
	}
	return !again, failure
}

// jobMessage says when a job runs next.
func jobMessage(job Job) string {
	switch {
	case job.Active() && !job.Begun:
		return fmt.Sprintf("the run of %s is about to begin", job.At.Format(time.RFC3339))
	case job.Next.IsZero():
		return "never runs again"
	}
	return "runs next at " + job.Next.Format(time.RFC3339)
}

// jobRuns are the last runs of a job as they are reported.
func jobRuns(job Job) (list []wire.JobRun) {
	for _, p := range job.Past {
		list = append(list, wire.JobRun{At: p.At, Result: string(p.Result), ExitCode: p.Code})
	}
	return list
}
