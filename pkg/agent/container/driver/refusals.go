package driver

import (
	"maps"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Bounds of the time until a container is tried again that did not run, while the
// previous one does: each attempt interrupts that. One that did not start at all is tried
// sooner: the interruption is short, and the reason may be the device's state.
const minStartRetry, minRetry, maxRetry = time.Minute, 5 * time.Minute, time.Hour

// refusals remembers which new containers did not run. An agent that starts anew tries
// them once more.
type refusals struct {
	mu sync.Mutex // guards byRef
	// byRef has them by service.
	byRef map[wire.DeploymentRef]map[string]refusal
	// cleared says, by service, why containers were cleared since the Deployment was
	// ready last.
	cleared map[wire.DeploymentRef]map[string]string
	// hints says, by service, what may be why it fails.
	hints map[wire.DeploymentRef]map[string]string
}

type refusal struct {
	plan.Refusal

	times int
}

func newRefusals() *refusals {
	return &refusals{
		byRef: map[wire.DeploymentRef]map[string]refusal{}, cleared: map[wire.DeploymentRef]map[string]string{},
		hints: map[wire.DeploymentRef]map[string]string{},
	}
}

// note notes that a container did not run, or did not even start.
func (r *refusals) note(s *container.Spec, started bool, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	services := r.byRef[s.Ref]
	if services == nil {
		services = map[string]refusal{}
		r.byRef[s.Ref] = services
	}
	known := services[s.Service]
	if known.Hash != s.Hash {
		known = refusal{}
	}
	first := minStartRetry
	if started {
		first = minRetry
	}
	pause := min(first<<min(known.times, 8), maxRetry)
	services[s.Service] = refusal{plan.Refusal{Hash: s.Hash, Text: text, Until: time.Now().Add(pause)}, known.times + 1}
}

// of returns a workload with what is known of its services.
func (r *refusals) of(w *plan.Workload) *plan.Workload {
	r.mu.Lock()
	defer r.mu.Unlock()
	services := r.byRef[w.Ref]
	if len(services)+len(r.cleared[w.Ref])+len(r.hints[w.Ref]) == 0 {
		return w
	}
	with := *w
	with.Cleared, with.Hints = maps.Clone(r.cleared[w.Ref]), maps.Clone(r.hints[w.Ref])
	with.Refused = make(map[string]plan.Refusal, len(services))
	for name, known := range services {
		with.Refused[name] = known.Refusal
	}
	return &with
}

// clear forgets what was noted of a service.
func (r *refusals) clear(s *container.Spec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byRef[s.Ref], s.Service)
}

// noteCleared notes why a container was cleared.
func (r *refusals) noteCleared(c *container.Container, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cleared[c.Ref] == nil {
		r.cleared[c.Ref] = map[string]string{}
	}
	r.cleared[c.Ref][c.Service] = why
}

// ready forgets why containers of a Deployment were cleared.
func (r *refusals) ready(ref wire.DeploymentRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.cleared, ref)
}

// hint notes what may be why a service fails; empty for nothing.
func (r *refusals) hint(s *container.Spec, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hints[s.Ref] == nil {
		r.hints[s.Ref] = map[string]string{}
	}
	if r.hints[s.Ref][s.Service] = text; text == "" {
		delete(r.hints[s.Ref], s.Service)
	}
}

// forget forgets a Deployment.
func (r *refusals) forget(ref wire.DeploymentRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byRef, ref)
	delete(r.cleared, ref)
	delete(r.hints, ref)
}
