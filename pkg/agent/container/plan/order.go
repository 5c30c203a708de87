package plan

import (
	"fmt"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// Waves says, by service, how many others have to be there before it at least: what stops
// stops in the reverse order.
func (w *Workload) Waves() map[string]int {
	waves, specs := make(map[string]int, len(w.Services)), make(map[string]*container.Spec, len(w.Services))
	for i := range w.Services {
		specs[w.Services[i].Service] = &w.Services[i]
	}
	var wave func(name string, depth int) int
	wave = func(name string, depth int) int {
		if n, known := waves[name]; known || specs[name] == nil || depth > len(specs) {
			return n
		}
		n := 0
		for _, d := range specs[name].DependsOn {
			n = max(n, wave(d.Service, depth+1)+1)
		}
		waves[name] = n
		return n
	}
	for name := range specs {
		wave(name, 0)
	}
	return waves
}

// inWaves orders removals: what depends on others goes first.
func inWaves(actions []Action, waves map[string]int) []Action {
	for i := range actions {
		actions[i].Wave = waves[actions[i].Container.Service]
	}
	slices.SortStableFunc(actions, func(a, b Action) int { return b.Wave - a.Wave })
	return actions
}

// view is what there is of a Deployment, and when it is looked at.
type view struct {
	w     *Workload
	slots []slot
	now   time.Time
}

// renewed reports whether a container of a service is to be made, so that there is a new set.
func (v *view) renewed() bool {
	return slices.ContainsFunc(v.slots, func(s slot) bool {
		return s.spec.Role == container.RoleService && s.serving == nil && !s.waitsForRetry(v)
	})
}

// waitsForRetry reports whether the new container did not run, and is tried again later.
func (s *slot) waitsForRetry(v *view) bool {
	return s.previous != nil && s.refused(v.w) && v.now.Before(v.w.Refused[s.spec.Service].Until)
}

// init is the init container that has to run before services of a new set are made; nil for
// none.
func (v *view) init() *slot {
	if !v.renewed() {
		return nil
	}
	i := slices.IndexFunc(v.slots, func(s slot) bool { return s.spec.Role == container.RoleInit && !s.completed() })
	if i < 0 {
		return nil
	}
	return &v.slots[i]
}

// completed reports whether the container of a service did its job.
func (s *slot) completed() bool {
	c := s.serving
	return c != nil && s.spec.Restart != container.RestartAlways && c.Ended() && !c.Interrupted() && c.ExitCode == 0 && c.Last.Unwell == ""
}

// waits says what a service waits for before its container is made, when anew, or started;
// empty for nothing. again is when that may be over although nothing happened.
func (v *view) waits(s *slot, anew bool) (what string, again time.Time) {
	if init := v.init(); init != nil && anew && s.spec.Role != container.RoleInit {
		return "waits for init container " + init.spec.Service, time.Time{}
	}
	for _, d := range s.spec.DependsOn {
		met, until := v.met(d)
		again = earliest(again, until)
		if !met && what == "" {
			what = fmt.Sprintf("waits until service %s has %s", d.Service, d.Condition)
			if d.Condition == container.Healthy {
				what = fmt.Sprintf("waits until service %s is healthy", d.Service)
			}
		}
	}
	return what, again
}

// Waits reports whether a service waits for others before its container is made.
func Waits(w *Workload, observed []container.Container, now time.Time) bool {
	slots, _ := arrange(w, observed)
	v := &view{w: w, slots: slots, now: now}
	return slices.ContainsFunc(slots, func(s slot) bool {
		if s.serving != nil || s.spec.Role != container.RoleService {
			return false
		}
		what, _ := v.waits(&s, true)
		return what != ""
	})
}

// healthy reports whether a service is ready, or when it may be by its time.
func (v *view) healthy(s *slot) (is bool, again time.Time) {
	c, probes := s.serving, s.serving.ProbesOf(s.spec.Probes)
	switch ready := c.Since.Add(v.w.MinReady); {
	case c.State != container.StateRunning || c.Odd() || !c.Ready(probes):
		return s.completed(), time.Time{}
	case probes.Readiness == nil && v.now.Before(ready):
		return false, ready
	}
	return true, time.Time{}
}

// met reports whether a dependency is there, or when that may be so.
func (v *view) met(d container.Dependency) (met bool, again time.Time) {
	i := slices.IndexFunc(v.slots, func(s slot) bool { return s.spec.Service == d.Service })
	if i < 0 || v.slots[i].serving == nil {
		return i < 0, time.Time{} // what is not there is not waited for
	}
	on := &v.slots[i]
	switch d.Condition {
	case container.Completed:
		return on.completed(), time.Time{}
	case container.Healthy:
		return v.healthy(on)
	default:
		return on.completed() || on.serving.State == container.StateRunning, time.Time{}
	}
}
