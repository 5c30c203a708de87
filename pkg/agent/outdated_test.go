package agent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// After an upgrade of its system a device may have containers that podman cannot start any
// more. They are made anew, and what they have in volumes stays.
func TestAContainerOfAnEarlierPodman(t *testing.T) {
	onDevice(t, func(d *device) {
		keeps := func(s *score.Service) {
			s.Volumes = []score.Volume{{Name: "data", MountPath: "/data"}}
		}
		d.gateway.issue("e1", deployments{web: {"front": keeps}})
		d.pass(time.Minute)
		d.podman.Outdate("shop_web_front")
		d.podman.Calls()
		d.podman.Exit("shop_web_front", 1)
		d.pass(time.Minute)
		calls := d.podman.Calls()
		if !slices.Contains(calls, "remove shop_web_front") || !slices.Contains(calls, "start shop_web_front") || slices.ContainsFunc(calls, func(c string) bool { return strings.Contains(c, "volume") }) {
			t.Errorf("the calls are %q", calls)
		}
		if s := d.agent.Status(); len(s.Deployments) != 1 || s.Deployments[0].Phase != wire.PhaseRunning {
			t.Errorf("status has %+v", s.Deployments)
		}
	})
}
