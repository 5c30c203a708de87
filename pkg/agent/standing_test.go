package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestNonceIsOnTheDiskBeforeTheNextRequest(t *testing.T) {
	onDevice(t, func(d *device) {
		d.enrollment = "first"
		d.restart()
		d.gateway.look(func() { d.gateway.nonce, d.gateway.nonces = "n1", nil })
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.gateway.look(func() { d.gateway.nonce = "n2" })
		d.gateway.setOffline(false)
		d.settle()
		d.gateway.look(func() { d.gateway.nonce = "" }) // keeps the last
		d.restart()
		d.gateway.setOffline(false)
		d.settle()
		d.enrollment = "second"
		d.restart()
		d.gateway.setOffline(false)
		d.settle()
		d.gateway.look(func() {
			if diff := cmp.Diff([]string{"", "n1", "n2", ""}, d.gateway.nonces); diff != "" {
				t.Error(diff)
			}
		})
	})
}

func TestQuarantineKeepsWhatRuns(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		d.gateway.look(func() {
			d.gateway.refuseAll = &wire.Refusal{Code: wire.RefusedQuarantined, Message: "old nonce"}
		})
		d.gateway.issue("e1", nil)
		d.settle()
		d.podman.Exit("shop_web_front", 1)
		var before int
		d.gateway.look(func() { before = d.gateway.snapshots })
		d.pass(24 * time.Hour)
		d.expectCalls("start shop_web_front")
		if s := d.agent.Status(); !strings.Contains(s.Standing, "fleet-server device accept pi-1") {
			t.Errorf("standing %q", s.Standing)
		}
		d.gateway.look(func() {
			if n := d.gateway.snapshots - before; n < 24*4/2 || n > 24*4*2 {
				t.Errorf("%d snapshot requests in a day", n)
			}
			d.gateway.refuseAll = nil
		})
		d.pass(time.Hour)
		d.expectCalls("stop shop_web_front", "remove shop_web_front")
		if s := d.agent.Status(); s.Standing != "" {
			t.Errorf("standing %q", s.Standing)
		}
	})
}

func TestQuarantinedReportsWait(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.look(func() {
			d.gateway.refuseStates = &wire.Refusal{Code: wire.RefusedQuarantined, Message: "old nonce"}
		})
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.pass(10 * time.Minute)
		d.gateway.look(func() {
			if n := d.gateway.reports; n > 3 {
				t.Errorf("%d reports in ten minutes", n)
			}
			d.gateway.refuseStates = nil
		})
		d.pass(time.Hour)
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

func TestStaleSessionAsksAgainAtOnceButNotForEver(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.look(func() {
			d.gateway.refuseStates = &wire.Refusal{Code: wire.RefusedSession, Message: "a newer session"}
		})
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.pass(time.Second)
		var before int
		d.gateway.look(func() { before = d.gateway.snapshots })
		d.settle() // until it is ready, which is refused, too
		d.gateway.look(func() {
			if d.gateway.snapshots == before {
				t.Error("nothing was asked")
			}
		})
		d.pass(time.Hour)
		d.gateway.look(func() {
			if n := d.gateway.snapshots - before; n > 60 {
				t.Errorf("%d snapshot requests in an hour", n)
			}
			d.gateway.refuseStates = nil
		})
		d.pass(time.Hour)
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

// What had to leave does not come back with a restored server that never knew of it: it
// may be gone already without the server's knowledge, or there still.
func TestWhatHadToLeaveDoesNotComeBack(t *testing.T) {
	for name, podmanAway := range map[string]bool{"gone": false, "still there": true} {
		t.Run(name, func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.gateway.issue("e1", deployments{web: {"front": nil}, api: {"back": nil}})
				d.settle()
				d.podman.SetDown(podmanAway)
				d.gateway.look(func() { d.gateway.refuseStates = &wire.Refusal{Code: wire.RefusedUnavailable, Message: "busy"} })
				d.gateway.issue("e1", deployments{api: {"back": nil}})
				d.settle()
				d.gateway.issue("e2", nil)
				d.settle()
				d.podman.SetDown(false)
				d.restart()
				d.pass(10 * time.Minute)
				d.expectNames("shop_api_back") // which nothing certain omits
				d.gateway.look(func() { d.gateway.refuseStates = nil })
				d.pass(time.Hour)
				d.expectPhase(api, wire.PhaseRunning, "")
				if s := d.gateway.state(web); s.Phase != "" {
					t.Errorf("what left is reported as %+v", s)
				}
				d.gateway.issue("e2", deployments{web: {"front": nil}})
				d.settle()
				d.expectNames("shop_api_back", "shop_web_front")
			})
		})
	}
}
