package driver

import (
	"context"
	"maps"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/container/probe"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// leastGrace is the time that a container has to end whose hook took all of it.
const leastGrace = 2 * time.Second

// end asks a container to end, after its hook, and kills it when its time is over. Both share
// the grace period.
func (d *Driver) end(ctx context.Context, c *container.Container) error {
	grace := c.Grace
	if c.PreStop != nil && c.State == container.StateRunning && !c.Gone && grace > 0 {
		began := time.Now()
		d.preStop(ctx, c)
		grace = max(grace-time.Since(began), min(grace, leastGrace))
	}
	return d.runtime.Stop(ctx, c.ID, grace)
}

// preStop does what is to be done before a container ends. That it failed keeps nothing from
// ending, and is said.
func (d *Driver) preStop(ctx context.Context, c *container.Container) {
	hook := c.PreStop.Probe()
	hook.Timeout = c.Grace
	limited, cancel := context.WithTimeout(ctx, hook.Timeout)
	defer cancel()
	err := d.checks.Check(limited, &probe.Target{Ref: c.Ref, ID: c.ID, Name: c.Name, PID: c.PID}, hook)
	text := ""
	switch {
	case err == nil:
	case limited.Err() != nil && ctx.Err() == nil:
		text = "the preStop hook did not end within the grace period of " + c.Grace.String()
	default:
		text = "the preStop hook failed: " + err.Error()
	}
	if text != "" {
		d.log.Warn("a preStop hook failed", "container", c.Name, "reason", text)
	}
	d.notes.set(c.Ref, c.Service, text)
}

// notes are what is to be known of services besides how they are.
type notes struct {
	mu    sync.Mutex // guards byRef
	byRef map[wire.DeploymentRef]map[string]string
}

func newNotes() *notes { return &notes{byRef: map[wire.DeploymentRef]map[string]string{}} }

// set notes a text about a service, until the next one; empty for nothing.
func (n *notes) set(ref wire.DeploymentRef, service, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byRef[ref] == nil {
		n.byRef[ref] = map[string]string{}
	}
	if n.byRef[ref][service] = text; text == "" {
		delete(n.byRef[ref], service)
	}
}

// of returns a workload with what is noted of its services.
func (n *notes) of(w *plan.Workload) *plan.Workload {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.byRef[w.Ref]) == 0 {
		return w
	}
	with := *w
	with.Notes = maps.Clone(n.byRef[w.Ref])
	return &with
}

func (n *notes) forget(ref wire.DeploymentRef) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.byRef, ref)
}
