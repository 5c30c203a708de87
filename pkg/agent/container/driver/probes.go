package driver

import (
	"context"
	"errors"
	"net"
	"sync"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/container/probe"
	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Run implements workload.Runner: it probes, looks for devices, repairs the storage, and follows
// images that move.
func (d *Driver) Run(ctx context.Context, changed func(wire.DeploymentRef)) {
	d.mu.Lock()
	d.changed = changed
	d.mu.Unlock()
	var besides sync.WaitGroup
	defer besides.Wait()
	besides.Go(func() { d.lookForDevices(ctx, changed) })
	besides.Go(func() { d.tend(ctx, changed) })
	besides.Go(func() { d.followAll(ctx, changed) })
	d.probes.Run(ctx)
}

// wake has the Deployments looked at whose jobs are overdue.
func (d *Driver) wake() {
	d.mu.Lock()
	changed := d.changed
	d.mu.Unlock()
	if changed == nil {
		return
	}
	for _, ref := range d.jobs.overdue() {
		changed(ref)
	}
}

// probed notes what probes found out.
func (d *Driver) probed(t *probe.Target, h container.Health) {
	if !d.runs.Probed(t.ID, t.Run, h) {
		return
	}
	d.mu.Lock()
	changed := d.changed
	d.mu.Unlock()
	changed(t.Ref)
}

// targets are the containers of a workload that are probed.
func targets(w *plan.Workload, observed []container.Container) (list []probe.Target) {
	plan.Serving(w, observed, func(spec *container.Spec, c *container.Container) {
		probes := c.ProbesOf(spec.Probes)
		if probes.None() || c.Gone || c.Health.Unwell != "" {
			return
		}
		list = append(list, probe.Target{
			Ref: c.Ref, ID: c.ID, Run: c.Started, Name: c.Name, PID: c.PID, Since: c.Since, Health: c.Health, Probes: probes,
		})
	})
	return list
}

// errNoDialer: this agent was made without one.
var errNoDialer = errors.New("there is none")

// lookout is a Dialer that remembers whether the helper answers.
type lookout struct {
	probe.Dialer // nil for none

	mu  sync.Mutex // guards err
	err error
}

// Dial implements probe.Dialer.
func (l *lookout) Dial(ctx context.Context, container string, pid int, port uint16) (conn net.Conn, err error) {
	if l.Dialer == nil {
		return nil, errors.Join(helper.ErrUnavailable, errNoDialer)
	}
	conn, err = l.Dialer.Dial(ctx, container, pid, port)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err = nil; errors.Is(err, helper.ErrUnavailable) {
		l.err = err
	}
	return conn, err
}

// lacks says what the helper cannot do at present.
func (l *lookout) lacks() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		return ""
	}
	return "probes through the network cannot be made: " + l.err.Error()
}
