package interpret

import (
	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/container/schedule"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// live completes a container by when it begins and ends, and what is done then.
func live(w *plan.Workload, p *score.PodmanV0, spec *container.Spec, s *score.Service, isInit bool) error {
	for _, d := range s.DependsOn {
		spec.DependsOn = append(spec.DependsOn, container.Dependency{Service: d.Service, Condition: conditionOf(d.Condition)})
	}
	if s.Lifecycle != nil {
		spec.PreStop = hookOf(s.Lifecycle.PreStop)
		if hook := hookOf(s.Lifecycle.PostStart); hook != nil {
			spec.Probes.PostStart = hook.Probe()
		}
	}
	switch {
	case isInit:
		spec.Role, spec.Restart, spec.Timeout = container.RoleInit, container.RestartOnFailure, s.InitTimeout()
	case s.Schedule != nil:
		return schedules(w, spec, s)
	default:
		if all := p.InitHash(); all != "" { // it is another service after other init containers
			spec.Hash = wire.Sum([]byte(spec.Hash + all)).String()
		}
	}
	return nil
}

// schedules makes a job of a service.
func schedules(w *plan.Workload, spec *container.Spec, s *score.Service) error {
	times, err := s.Schedule.Times()
	if err != nil {
		return err
	}
	spec.Role, spec.Timeout = container.RoleJob, s.Timeout()
	if s.Restart == "" {
		spec.Restart = container.RestartNever
	}
	if w.Schedules == nil {
		w.Schedules = map[string]schedule.Rule{}
	}
	w.Schedules[s.Name] = schedule.Rule{
		Key: s.Schedule.Cron + " " + s.Schedule.TimeZone, Times: times,
		Replace: s.Schedule.ConcurrencyPolicy == score.ConcurrencyReplace, CatchUp: s.Schedule.MissedRuns == score.MissedRunOnce,
	}
	return nil
}

func conditionOf(c score.DependencyCondition) container.Condition {
	switch c {
	case score.DependencyHealthy:
		return container.Healthy
	case score.DependencyCompleted:
		return container.Completed
	default:
		return container.Started
	}
}

// hookOf relies on the validation of the score, as probeOf does.
func hookOf(h *score.Hook) *container.Hook {
	if h == nil {
		return nil
	}
	as := probeOf(&score.Probe{Exec: h.Exec, HTTPGet: h.HTTPGet})
	return &container.Hook{Exec: as.Exec, HTTP: as.HTTP, Timeout: h.Timeout()}
}
