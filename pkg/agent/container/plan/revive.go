package plan

import (
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// Revivals are the containers that can be started at once, whatever else is to be done for
// the workload: those of services that have to be started and have no other container that
// may run. What is on a schedule, and init containers, are left to Changes.
func Revivals(w *Workload, observed []container.Container, now time.Time) (list []container.Container) {
	actions, _ := Changes(w, observed, now)
	for _, a := range actions {
		starts := a.Kind == Start || a.Kind == Resume
		if starts && roleOf(w, a.Container.Service) == container.RoleService && alone(&a.Container, observed) {
			list = append(list, a.Container)
		}
	}
	return list
}

func roleOf(w *Workload, service string) container.Role {
	i := slices.IndexFunc(w.Services, func(s container.Spec) bool { return s.Service == service })
	return w.Services[i].Role
}

// alone reports whether no other container of a service may run.
func alone(c *container.Container, observed []container.Container) bool {
	return !c.Odd() && !slices.ContainsFunc(observed, func(o container.Container) bool {
		return o.Ref == c.Ref && o.Service == c.Service && o.ID != c.ID && (o.Odd() || o.MayRun())
	})
}
