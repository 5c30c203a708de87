package agent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A container that podman can start no more is made anew, and what it has in volumes stays.
func TestAContainerThatStartsNoMore(t *testing.T) {
	for name, harm := range map[string]func(*device){
		"an earlier podman made it":             func(d *device) { d.podman.Outdate("shop_web_front") },
		"a power cut damaged it":                func(d *device) { d.podman.Damage("shop_web_front") },
		"podman did not survive its last start": func(d *device) { d.podman.LeaveStart("shop_web_front") },
	} {
		t.Run(name, func(t *testing.T) {
			onDevice(t, func(d *device) {
				keeps := func(s *score.Service) {
					s.Volumes = []score.Volume{{Name: "data", MountPath: "/data"}}
				}
				d.gateway.issue("e1", deployments{web: {"front": keeps}})
				d.pass(time.Minute)
				harm(d)
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
		})
	}
}

// Podman is killed while it starts a new version, and started again: the version is tried once
// more, and runs.
func TestPodmanDoesNotSurviveTheStartOfANewVersion(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.pass(time.Minute)
		d.podman.LeaveNextStart()
		d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) { s.Env = []score.EnvVar{{Name: "VERSION", Value: "2"}} }}})
		d.pass(20 * time.Second)
		if s := d.agent.Status(); len(s.Deployments) != 1 || s.Deployments[0].Phase != wire.PhaseRunning {
			t.Errorf("status has %+v", s.Deployments)
		}
		if twice := d.podman.Twice(); len(twice) > 0 {
			t.Errorf("%v ran twice", twice)
		}
	})
}
