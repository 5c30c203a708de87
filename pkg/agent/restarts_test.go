package agent_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
	name "fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func of(ref wire.DeploymentRef, service string) name.Name {
	return name.Name{DeploymentRef: ref, Service: service}
}

// expectRestart restarts services and checks what is said of it.
func (d *device) expectRestart(want string, names ...name.Name) {
	d.t.Helper()
	got := ""
	if err := d.agent.Restart(d.t.Context(), names); err != nil {
		got = err.Error()
	}
	if got != want {
		d.t.Errorf("restart says %q, want %q", got, want)
	}
}

// A restart that somebody asks for is no crash, and waits for no pause.
func TestRestart(t *testing.T) {
	onDevice(t, func(d *device) {
		job := func(s *score.Service) { s.Restart = score.RestartNever }
		d.gateway.issue("e1", deployments{web: {"front": nil, "job": job}, api: {"one": nil}})
		d.settle()
		d.podman.Calls()
		d.podman.Ending = 3 * time.Second
		began := time.Now()
		d.expectRestart("", of(web, "front"), of(web, "job"))
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("it took %v, and the containers end side by side in 3s", took)
		}
		calls := d.podman.Calls()
		slices.Sort(calls)
		if diff := cmp.Diff([]string{"start shop_web_front", "start shop_web_job", "stop shop_web_front", "stop shop_web_job"}, calls); diff != "" {
			t.Error(diff)
		}
		// The report is that of after the restart.
		if s := d.agent.Status(); !slices.ContainsFunc(s.Deployments, func(s wire.DeploymentState) bool {
			return s.DeploymentRef == web && s.Phase == wire.PhasePending && s.Containers[0].State == "running"
		}) {
			t.Errorf("status has %+v", s.Deployments)
		}
		d.pass(6 * time.Second)
		d.expectPhase(web, wire.PhaseRunning, "")
		if s := d.gateway.state(web); s.Containers[0].Restarts != 0 {
			t.Errorf("it counts: %+v", s)
		}
		d.expectCrashes("after a restart")
		d.pass(10 * time.Minute)
		if calls := d.podman.Calls(); len(calls) > 0 {
			t.Errorf("later: %q", calls)
		}
	})
}

// What waits for its next start after a failure starts at once.
func TestRestartOfWhatWaits(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": command(containertest.ExitCommand, "3")}})
		d.pass(10 * time.Minute) // the pause is five minutes by now
		d.podman.Calls()
		d.expectRestart("", of(web, "front"))
		if calls := d.podman.Calls(); len(calls) == 0 || calls[0] != "start shop_web_front" {
			t.Errorf("did %q", calls)
		}
		d.pass(10 * time.Second)
		if calls := d.podman.Calls(); len(calls) < 2 {
			t.Errorf("the pause does not begin anew: %q", calls)
		}
	})
}

func TestRestartOfNothing(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}, api: {"one": nil}})
		d.settle()
		lab := wire.DeploymentRef{Namespace: "lab", Name: "x"}
		d.expectRestart("lab/x does not run on this device, or not for long; "+
			"service back, side of shop/web has no container that can be restarted now: fleet-agent status says why",
			of(web, "back"), of(web, "front"), of(web, "side"), of(lab, "s"))
		d.podman.SetDown(true)
		d.expectRestart("observing shop/web: container runtime unavailable", of(web, "front"))
		d.podman.SetDown(false)
		d.settle()
		d.throwOut(wire.RevocationStop)
		d.expectRestart("this device was revoked, and runs nothing until it is enrolled again", of(web, "front"))
	})
}

// A pull that takes an hour does not hold up a restart, and whoever does not wait any more
// leaves nothing behind.
func TestRestartDuringAPull(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		pulls := make(chan struct{}, 10)
		d.podman.PullFunc = func(ctx context.Context, _ string) error {
			pulls <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		d.gateway.issue("e1", deployments{web: {"front": nil, "new": func(s *score.Service) { s.Image = "localhost/other:1" }}})
		d.settle()
		<-pulls
		d.expectRestart("", of(web, "front"))
		ctx, cancel := context.WithCancel(d.t.Context())
		cancel()
		if err := d.agent.Restart(ctx, []name.Name{of(web, "front")}); !errors.Is(err, context.Canceled) && err != nil {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if calls := d.podman.Calls(); !strings.Contains(strings.Join(calls, " "), "stop shop_web_front start shop_web_front") {
			t.Errorf("did %q", calls)
		}
	})
}
