package driver

import (
	"maps"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/agent/container/schedule"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// jobs remembers the runs of services on a schedule, over restarts of the agent.
type jobs struct {
	keeper runs.Keeper // may be nil
	now    func() runs.Moment
	warn   func(err error)

	mu sync.Mutex // guards what follows
	// records have them by Deployment, in the form of container.LabelValue, and service.
	records map[string]map[string]*schedule.Record
	// next is when a Deployment has something to do next, for those that have jobs.
	next map[wire.DeploymentRef]time.Time
	// wall and at are both clocks at the last look at all of them.
	wall    time.Time
	at      runs.Moment
	unsaved bool
}

func newJobs(keeper runs.Keeper, now func() runs.Moment, warn func(err error)) *jobs {
	j := &jobs{keeper: keeper, now: now, warn: warn, next: map[wire.DeploymentRef]time.Time{}}
	if keeper != nil {
		keeper.Load(&j.records)
	}
	if j.records == nil {
		j.records = map[string]map[string]*schedule.Record{}
	}
	for _, services := range j.records { // saved by nobody that means well
		maps.DeleteFunc(services, func(_ string, r *schedule.Record) bool { return r == nil })
	}
	return j
}

// of returns a workload with what is known of its jobs. When decide is set, it decides which
// of them run now. What it decided is on the disk before anything is done about it.
func (j *jobs) of(w *plan.Workload, observed []container.Container, decide bool) *plan.Workload {
	j.mu.Lock()
	defer j.mu.Unlock()
	key := container.LabelValue(w.Ref)
	j.leave(key, w)
	if len(w.Schedules) == 0 {
		delete(j.next, w.Ref)
		return w
	}
	if j.records[key] == nil {
		j.records[key] = map[string]*schedule.Record{}
	}
	with, next := *w, time.Time{}
	with.Runs = map[string]plan.Job{}
	for i := range w.Services {
		spec := &w.Services[i]
		rule, is := w.Schedules[spec.Service]
		if !is {
			continue
		}
		r := j.turn(j.records[key][spec.Service], spec, &rule, observed, decide)
		j.records[key][spec.Service] = r
		job := plan.Job{Run: r.Run, Next: r.Next(&rule), Past: slices.Clone(r.Past)}
		with.Runs[spec.Service] = job
		if next.IsZero() || !job.Next.IsZero() && job.Next.Before(next) {
			next = job.Next
		}
	}
	j.next[w.Ref] = next
	j.save()
	return &with
}

// leave forgets the jobs that a workload does not have any more.
func (j *jobs) leave(key string, w *plan.Workload) {
	before := len(j.records[key])
	maps.DeleteFunc(j.records[key], func(service string, _ *schedule.Record) bool { _, is := w.Schedules[service]; return !is })
	if len(j.records[key]) < before {
		j.unsaved = true
		j.save()
	}
}

// turn notes what became of the last run of a job, and begins the next one if it is due.
func (j *jobs) turn(r *schedule.Record, spec *container.Spec, rule *schedule.Rule, observed []container.Container, decide bool) *schedule.Record {
	wall, at := time.Now(), j.now()
	if r == nil {
		r, j.unsaved = schedule.New(rule, wall, at), true
		adopt(r, spec, observed)
	}
	c := runOf(r, spec, observed)
	if r.Run.Active() {
		j.unsaved = follow(r, spec, c) || j.unsaved
	}
	if !decide {
		return r
	}
	due, news := r.Decide(rule, wall, at)
	j.unsaved = j.unsaved || news
	if !due.IsZero() {
		busy := r.Run.Active() && c != nil && !c.Ended()
		r.Trigger(rule, due, container.JobHash(due, spec.Hash), busy)
	}
	return r
}

// adopt takes the last run from its container, when there is no record of it any more.
func adopt(r *schedule.Record, spec *container.Spec, observed []container.Container) {
	for _, c := range observed {
		at, is := container.JobTime(c.Hash)
		if is && c.Service == spec.Service && c.Name == spec.Name() && at.After(r.Run.At) {
			r.Run = schedule.Run{At: at, Hash: c.Hash, Begun: true}
		}
	}
}

// runOf is the container of the last run, or nil.
func runOf(r *schedule.Record, spec *container.Spec, observed []container.Container) *container.Container {
	i := slices.IndexFunc(observed, func(c container.Container) bool {
		return r.Run.Hash != "" && c.Service == spec.Service && c.Hash == r.Run.Hash && c.Name == spec.Name()
	})
	if i < 0 {
		return nil
	}
	return &observed[i]
}

// follow notes what became of a run whose container is c, and reports whether that is news.
func follow(r *schedule.Record, spec *container.Spec, c *container.Container) (news bool) {
	switch {
	case c == nil && !r.Run.Begun:
		return false
	case c == nil:
		r.Finish(0, "was cut off: its container was removed")
		return true
	}
	news = !r.Run.Begun
	r.Run.Begun = true
	if done, failure := plan.Outcome(spec, c); done {
		r.Finish(c.ExitCode, failure)
		return true
	}
	return news
}

// overdue lists the Deployments whose jobs have to be decided on anew: the next run should
// have begun, or the system's clock was set, of which no timer knows.
func (j *jobs) overdue() (refs []wire.DeploymentRef) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now, at := time.Now(), j.now()
	wasSet := !j.wall.IsZero() && schedule.WasSet(j.wall, now, j.at, at)
	j.wall, j.at = now, at
	for ref, next := range j.next {
		if wasSet || !next.IsZero() && now.Round(0).After(next) {
			refs = append(refs, ref)
		}
	}
	return refs
}

// forget forgets a Deployment.
func (j *jobs) forget(ref wire.DeploymentRef) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.next, ref)
	if key := container.LabelValue(ref); j.records[key] != nil {
		delete(j.records, key)
		j.unsaved = true
		j.save()
	}
}

// save must be called with mu held. What cannot be saved now is tried again with the next
// decision: the container of a run says itself which one it is.
func (j *jobs) save() {
	if !j.unsaved || j.keeper == nil {
		return
	}
	if err := j.keeper.Save(j.records); err != nil {
		j.warn(err)
		return
	}
	j.unsaved = false
}
