package agent_test

import (
	"fmt"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// TestInventedDeploymentsAreBounded: whoever took podman's place can name any
// number of Deployments, and other ones at each look.
func TestInventedDeploymentsAreBounded(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.gateway.setOffline(true)
		const each = 2 * wire.MaxEntries
		for round := range 4 {
			d.podman.SetList(invented(round, each))
			d.agent.Refresh()
			d.settle()
			if n := len(d.agent.Status().Deployments); n > 4*wire.MaxEntries {
				t.Fatalf("%d reports are kept", n)
			}
		}
		d.podman.SetList(nil)
		d.gateway.setOffline(false)
		d.agent.Refresh()
		d.pass(10 * time.Minute)
		if s := d.agent.Status().Deployments; len(s) != 1 || s[0].DeploymentRef != web {
			t.Errorf("%d reports stay, want that of %s alone", len(s), web)
		}
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

func invented(round, n int) []container.Container {
	list := make([]container.Container, n)
	for i := range list {
		ref := wire.DeploymentRef{Namespace: "invented", Name: fmt.Sprintf("r%d-%d", round, i)}
		list[i] = container.Container{ID: fmt.Sprint(i), Name: container.ObjectName(ref, "web"), Ref: ref, Service: "web", State: container.StateRunning}
	}
	return list
}

// TestAGatewayThatNudgesAllTheTimeIsFollowedSlowly: each answer may bring a nonce
// or a manifest, which are written to a card that wears out.
func TestAGatewayThatNudgesAllTheTimeIsFollowedSlowly(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", nil)
		d.settle()
		before := d.gateway.asked()
		const seconds = 60
		for range seconds * 100 {
			select {
			case d.gateway.nudges <- struct{}{}:
			default:
			}
			d.pass(10 * time.Millisecond)
		}
		if n := d.gateway.asked() - before; n < seconds/2 || n > 2*seconds {
			t.Errorf("%d questions in %d seconds", n, seconds)
		}
	})
}

func (g *gateway) asked() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.snapshots
}
