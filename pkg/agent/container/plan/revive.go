package plan

import (
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// Revivals are those of Changes that start containers at once, whatever else is to be done for
// the workload: containers of services that have to be started and have no other container that
// may run. Before them come the networks and secrets that they need, which may have been lost.
// What is on a schedule, and init containers, are left to Changes.
func Revivals(w *Workload, observed []container.Container, now time.Time) (list []Action) {
	actions, _ := Changes(w, observed, now)
	starts := slices.DeleteFunc(slices.Clone(actions), func(a Action) bool {
		return a.Kind != Start && a.Kind != Resume || roleOf(w, a.Container.Service) != container.RoleService || !alone(&a.Container, observed)
	})
	if len(starts) == 0 {
		return nil
	}
	for _, a := range actions {
		if a.Kind == EnsureNetwork || a.Kind == EnsureSecret && isNeeded(w, a.Secret, starts) {
			list = append(list, a)
		}
	}
	return append(list, starts...)
}

// isNeeded reports whether a container that is started uses a secret.
func isNeeded(w *Workload, secret string, starts []Action) bool {
	return slices.ContainsFunc(starts, func(a Action) bool {
		return slices.ContainsFunc(w.Services, func(s container.Spec) bool {
			_, uses := s.Secrets[secret]
			return uses && s.Service == a.Container.Service && s.Hash == a.Container.Hash
		})
	})
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
