package driver

import (
	"maps"
	"sync"

	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// ports knows the host ports that the Deployments on the device ask for. A
// Deployment has its ports from the moment that it was granted them, so that
// of two which start at once only one does.
type ports struct {
	mu      sync.Mutex // guards claims and blocked
	claims  map[wire.DeploymentRef]plan.Claim
	blocked map[wire.DeploymentRef]bool
}

func newPorts() *ports {
	return &ports{claims: map[wire.DeploymentRef]plan.Claim{}, blocked: map[wire.DeploymentRef]bool{}}
}

// grant gives a workload that was applied before the agent started the ports
// that it had, so that who has them does not change with a restart.
func (p *ports) grant(w *plan.Workload) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims[w.Ref] = plan.Claim{Workload: w, Running: true}
}

// claim asks for the host ports of a workload. It returns a
// *plan.PortConflict when another Deployment has one of them.
func (p *ports) claim(w *plan.Workload, running bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	running = running || p.claims[w.Ref].Running
	p.claims[w.Ref] = plan.Claim{Workload: w, Running: running}
	if conflict := plan.Conflicts(p.claims)[w.Ref]; conflict != nil {
		p.blocked[w.Ref] = true
		return conflict
	}
	delete(p.blocked, w.Ref)
	p.claims[w.Ref] = plan.Claim{Workload: w, Running: true}
	return nil
}

// release gives up what a Deployment has; its workload stays known unless gone
// is set.
func (p *ports) release(ref wire.DeploymentRef, gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.claims[ref]
	if gone || !ok {
		delete(p.claims, ref)
		delete(p.blocked, ref)
		return
	}
	c.Running = false
	p.claims[ref] = c
}

// freed lists the Deployments that could have their ports now, although they
// could not when they asked.
func (p *ports) freed() []wire.DeploymentRef {
	p.mu.Lock()
	defer p.mu.Unlock()
	var refs []wire.DeploymentRef
	conflicts := plan.Conflicts(p.claims)
	for ref := range maps.Keys(p.blocked) {
		if conflicts[ref] == nil {
			refs = append(refs, ref)
		}
	}
	return refs
}
