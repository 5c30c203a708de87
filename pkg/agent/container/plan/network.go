package plan

import (
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// AsBefore returns the workload with its services connected as agents up to 0.1 connected
// them, when it says nothing about networks, and what there is was connected so and is what
// the score asks for. An upgrade of the agent replaces no container, and a score means the
// present defaults from its next change on. renewed says that the score may have changed: then
// each service must have a container that was made from it.
func AsBefore(w *Workload, observed []container.Container, renewed bool) *Workload {
	mine := slices.DeleteFunc(slices.Clone(observed), func(c container.Container) bool { return c.Ref != w.Ref })
	if w.Before == nil || len(mine) == 0 || slices.ContainsFunc(mine, func(c container.Container) bool { return c.Network != "" }) {
		return w
	}
	is := func(c container.Container) bool { return w.Before[c.Service] == c.Hash }
	matching := slices.DeleteFunc(slices.Clone(mine), func(c container.Container) bool { return !is(c) })
	if len(matching) == 0 || renewed && (len(matching) != len(mine) || len(mine) != len(w.Services)) {
		return w
	}
	as := *w
	as.Networks, as.Services = nil, slices.Clone(w.Services)
	for i := range as.Services {
		s := &as.Services[i]
		if earlier, is := w.Earlier[s.Service]; is {
			*s = earlier
		}
		s.Network, s.Hash = container.Network{}, w.Before[s.Service]
	}
	return &as
}

// networks adds what connects containers, where some are made or start: it may have been lost.
func (c *changes) networks() []Action {
	starts := func(a Action) bool { return a.Kind == Start || a.Kind == Resume }
	if !c.made && !slices.ContainsFunc(c.rest, starts) && !slices.ContainsFunc(c.resumes, starts) {
		return nil
	}
	var actions []Action
	for i := range c.w.Networks {
		actions = append(actions, Action{Kind: EnsureNetwork, Network: &c.w.Networks[i]})
	}
	return actions
}
