package plan

import (
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// set names what is begun together: the init containers, and the services that they run
// before.
func (w *Workload) set() string {
	var all string
	for i := range w.Services {
		if s := &w.Services[i]; s.Role != container.RoleJob {
			all += fmt.Sprintf("%s %s\n", s.Service, s.Hash)
		}
	}
	return all
}

// specs are the services in the way that their containers are found by: that of an init
// container is of its set, that of a job of a run.
func (w *Workload) specs() []*container.Spec {
	list, set := make([]*container.Spec, len(w.Services)), ""
	for i := range w.Services {
		s := w.Services[i]
		switch s.Role {
		case container.RoleInit:
			if set == "" {
				set = w.set()
			}
			s.Hash = wire.Sum([]byte(s.Service + "\n" + set)).String()
		case container.RoleJob:
			s.Hash = w.Runs[s.Service].Hash
		case container.RoleService:
			list[i] = &w.Services[i]
			continue
		}
		list[i] = &s
	}
	return list
}

// initialise runs the next init container, if a new set asks for one. Everything that may
// fail before it is tried first: what it does cannot be undone.
func (c *changes) initialise(v *view) {
	next := v.init()
	for i := range v.slots {
		s := &v.slots[i]
		if s.spec.Role != container.RoleInit {
			continue
		}
		for _, o := range s.stale {
			if !o.Ended() || s == next {
				c.removals = append(c.removals, Action{Kind: Remove, Container: o})
			}
		}
		switch {
		case s != next:
		case s.serving != nil:
			c.run(s, s.serving)
		default:
			c.make(s.spec)
			c.rest = append(c.rest, Action{Kind: Create, Spec: s.spec})
			if i == 0 {
				c.rehearse(v)
			}
		}
		if s != next && s.serving != nil && s.serving.State == container.StateRunning {
			c.run(s, s.serving) // nothing asks for it any more, but it has its time to end
		}
	}
}

// rehearse finds out whether the containers could be started that are to take the place of
// others once the init containers ran.
func (c *changes) rehearse(v *view) {
	for i := range v.slots {
		s := &v.slots[i]
		if s.spec.Role != container.RoleService || s.serving != nil || s.waitsForRetry(v) {
			continue
		}
		c.make(s.spec)
		if s.previous != nil {
			c.prepared = append(c.prepared, Action{Kind: Prepare, Spec: s.spec, Container: *s.previous})
		}
	}
}

// overdue says that a container runs for longer than it may; empty when it does not. again is
// when that will be so.
func (s *slot) overdue(o *container.Container, now time.Time) (why string, again time.Time) {
	if s.spec.Timeout == 0 || o.State != container.StateRunning {
		return "", time.Time{}
	}
	if end := o.Since.Add(s.spec.Timeout); now.Before(end) {
		return "", end
	}
	return fmt.Sprintf("it did not end within %d s", int(s.spec.Timeout.Seconds())), time.Time{}
}

// judgeInit judges an init container.
func (s *slot) judgeInit(v *view) (phase wire.Phase, why string, again time.Time) {
	switch {
	case s.completed() || v.init() != s:
		return wire.PhaseRunning, "", time.Time{}
	case s.serving == nil:
		return wire.PhasePending, "", time.Time{}
	}
	phase, why, again = judgeContainer(v.w, s.spec, s.serving, v.now)
	if phase == wire.PhaseRunning {
		phase = wire.PhasePending // until it ends
	}
	_, end := s.overdue(s.serving, v.now)
	return phase, why, earliest(again, end)
}
