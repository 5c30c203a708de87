package agent_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

// TestANetworkThatIsLost: containers whose network ended are made anew within a minute, in one
// that works, and the report says so. Those of another network, the control, go on.
func TestANetworkThatIsLost(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.network = &score.Network{Mode: score.NetworkShared}
		d.gateway.issue("e1", deployments{web: {"front": nil, "back": nil}, api: {"one": nil}})
		d.settle()
		list, err := d.podman.List(t.Context(), web)
		if err != nil || len(list) != 2 {
			t.Fatal(list, err)
		}
		d.podman.Calls()
		reports := len(d.gateway.phases(web))
		d.podman.Sever(list[0].Network)
		d.pass(time.Minute)
		if phases := d.gateway.phases(web)[reports:]; !slices.Contains(phases, wire.PhaseFailed) {
			t.Errorf("it is reported as %v", phases)
		}
		d.expectCallsInAnyOrder("clear shop_web_back", "clear shop_web_front", "create shop_web_back", "start shop_web_back", "create shop_web_front", "start shop_web_front")
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectCrashes("a network that was lost",
			"front 0 lost its network (network.mode Shared), whose process was ended by something else: it is made anew",
			"back 0 lost its network (network.mode Shared), whose process was ended by something else: it is made anew")
	})
}

// lostNames is lost at so many of the next looks at it.
type lostNames struct{ times atomic.Int32 }

func (l *lostNames) NamesLost(context.Context) (bool, error) { return l.times.Add(-1) >= 0, nil }

// TestTheServerOfNames: one that ended is started anew within a minute, and the device says so,
// or that it does not start. Without networks nobody asks for it.
func TestTheServerOfNames(t *testing.T) {
	onDevice(t, func(d *device) {
		names := &lostNames{}
		d.names = names
		d.restart()
		said := func() string { return d.gateway.condition(wire.ConditionPodmanReady).Message }
		expect := func(message string, calls ...string) {
			t.Helper()
			d.pass(50 * time.Second) // between two looks
			if got := said(); got != message {
				t.Errorf("the device says %q, want %q", got, message)
			}
			d.expectCalls(calls...)
		}
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		names.times.Store(1)
		expect("")
		if cleared := d.podman.NamesCleared(); cleared != 1 {
			t.Errorf("what an earlier run left was cleared %d times", cleared)
		}
		d.gateway.issue("e1", deployments{web: {"front": nil, "back": nil}})
		d.settle()
		d.podman.Calls()
		names.times.Store(1)
		expect("podman's server of names (aardvark-dns) had ended, and was started anew", "names shop_web")
		expect("")
		names.times.Store(2)
		expect("services do not find each other by name: podman's server of names (aardvark-dns) has ended, and does not start: see fleet-agent doctor", "names shop_web")
		expect("")
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
