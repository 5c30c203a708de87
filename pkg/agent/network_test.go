package agent_test

import (
	"slices"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// TestAnUpgradeConnectsNothing: containers that an agent made which knew no networks stay as
// they are, over restarts of this one, until their score changes.
func TestAnUpgradeConnectsNothing(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil, "back": nil}})
		d.settle()
		before := map[string]string{}
		for _, name := range []string{"front", "back"} {
			before[name] = (&score.Service{Name: name, Image: image}).Hash()
		}
		d.podman.Unlabelled(before)
		d.podman.Calls()
		for range 2 {
			d.stop()
			d.start()
			d.settle()
		}
		d.expectCalls()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.gateway.issue("e1", deployments{web: {"front": command("new"), "back": nil}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		list, err := d.podman.List(t.Context(), web)
		if err != nil || len(list) != 2 || slices.ContainsFunc(list, func(c container.Container) bool { return c.Network != "shop_web" }) {
			t.Errorf("after a change there are %+v, %v", list, err)
		}
	})
}

// TestADeviceWithoutBridges: what ran goes on, and one line says what is missing.
func TestADeviceWithoutBridges(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.stop()
		d.podman.SetBridge("this device lacks netavark: install it")
		d.start()
		d.settle()
		d.podman.Calls()
		d.gateway.issue("e1", deployments{web: {"front": nil, "back": nil}})
		d.settle()
		d.expectCalls()
		d.expectPhase(web, wire.PhaseFailed, "network.mode Bridge, which several services have by default: this device lacks netavark: install it; or set network.mode to Private")
	})
}

// TestThePortOfNames: a port that would take the questions for names of all services is refused,
// and the services go on that were there. In a network of its own, or at one address, it is taken.
func TestThePortOfNames(t *testing.T) {
	publishes := func(hostIP string) func(*score.Service) {
		return func(s *score.Service) {
			s.Ports = []score.Port{{HostIP: hostIP, HostPort: 53, ContainerPort: 53, Protocol: "UDP"}}
		}
	}
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil, "back": nil}})
		d.settle()
		for _, everywhere := range []string{"", "0.0.0.0", "::"} {
			d.gateway.issue("e1", deployments{web: {"front": publishes(everywhere), "back": nil}})
			d.podman.Calls()
			d.settle()
			d.expectPhase(web, wire.PhaseFailed, "service front: ports[].hostPort 53 at every address would take the questions for names away")
			if calls := d.podman.Calls(); slices.ContainsFunc(calls, func(c string) bool { return strings.HasPrefix(c, "stop") || strings.HasPrefix(c, "remove") }) {
				t.Errorf("%q: the calls are %q", everywhere, calls)
			}
		}
		d.gateway.issue("e1", deployments{web: {"front": publishes("127.0.0.1"), "back": nil}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.gateway.issue("e1", deployments{web: {"front": publishes("")}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}
