package agent_test

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// ports is a Dialer into containers that answer on all ports or on none.
type ports struct {
	open, lost atomic.Bool
	dials      atomic.Int32
}

func (p *ports) Dial(context.Context, string, int, uint16) (net.Conn, error) {
	p.dials.Add(1)
	switch {
	case p.lost.Load():
		return nil, helper.ErrUnavailable
	case !p.open.Load():
		return nil, helper.ErrRefused
	}
	here, there := net.Pipe()
	there.Close()
	return here, nil
}

func probeOf(command ...string) container.Probe {
	return container.Probe{Exec: command, Period: 30 * time.Second, Until: 5 * time.Second, Timeout: time.Second, Failures: 3}
}

func seconds(n int) *int { return &n }

func ready(s *score.Service) {
	s.ReadinessProbe = &score.Probe{TCPSocket: &score.TCPProbe{Port: 80}, PeriodSeconds: seconds(2), FailureThreshold: seconds(1)}
}

func alive(s *score.Service) {
	s.LivenessProbe = &score.Probe{TCPSocket: &score.TCPProbe{Port: 80}, PeriodSeconds: seconds(2), FailureThreshold: seconds(2)}
}

func TestSucceededMeansReady(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": ready}})
		d.settle()
		d.expectCalls("create shop_web_front", "start shop_web_front")
		d.expectPhase(web, wire.PhasePending, "")
		d.ports.open.Store(true)
		d.pass(2 * time.Second)
		d.expectPhase(web, wire.PhaseRunning, "")
		if c := d.gateway.state(web).Containers; len(c) != 1 || !c[0].Ready {
			t.Errorf("the report says of it %+v", c)
		}
		d.restart()
		if phases := d.gateway.phases(web); slices.Contains(phases[len(phases)-1:], wire.PhasePending) {
			t.Errorf("a restart of the agent made it unready: %v", phases)
		}
		d.ports.open.Store(false)
		d.pass(2 * time.Second)
		d.expectPhase(web, wire.PhasePending, "")
		d.pass(time.Minute)
		d.expectPhase(web, wire.PhaseFailed, "service front: is not ready: its readiness probe failed: port 80: connection refused")
		d.expectCalls()
		// To change a probe replaces nothing.
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectCalls()
		d.ports.dials.Store(0)
		d.pass(time.Minute)
		if n := d.ports.dials.Load(); n > 0 {
			t.Errorf("it is probed %d times more", n)
		}
	})
}

func TestWhatIsNotAliveIsRestarted(t *testing.T) {
	onDevice(t, func(d *device) {
		d.ports.open.Store(true)
		d.gateway.issue("e1", deployments{web: {"front": alive}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.Calls()
		d.ports.open.Store(false)
		d.pass(6 * time.Second)
		d.expectCalls("stop shop_web_front", "start shop_web_front")
		d.expectPhase(web, wire.PhaseFailed, "service front: was stopped: its liveness probe failed: port 80: connection refused, 1 restart")
		// It goes on like that, ever more slowly.
		d.pass(10 * time.Minute)
		if n := len(d.podman.Calls()); n < 8 || n > 20 {
			t.Errorf("%d calls of podman in ten minutes", n)
		}
		d.ports.open.Store(true)
		d.pass(6 * time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

// Without the helper nothing is restarted, what is ready stays so, and the device says
// what is wrong.
func TestWithoutTheHelper(t *testing.T) {
	onDevice(t, func(d *device) {
		d.ports.open.Store(true)
		d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) { ready(s); alive(s) }}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.Calls()
		d.ports.lost.Store(true)
		d.pass(time.Hour)
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectCalls()
		i := slices.IndexFunc(d.agent.Status().Conditions, func(c wire.Condition) bool { return c.Type == wire.ConditionPodmanReady })
		want := wire.Condition{
			Type: wire.ConditionPodmanReady, Status: wire.ConditionTrue, Reason: "PodmanAnswers",
			Message: "probes through the network cannot be made: the helper of the workloads' account is unavailable",
		}
		if diff := cmp.Diff(want, d.agent.Status().Conditions[i]); diff != "" {
			t.Error(diff)
		}
		d.ports.lost.Store(false)
		d.pass(time.Minute)
		if c := d.agent.Status().Conditions[i]; c.Message != "" {
			t.Errorf("it is back, and the device says %q", c.Message)
		}
	})
}

// A command that is not there any more, as the check of an image, makes nothing ready.
func TestTheHealthCheckOfAnImageCounts(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.Check(image, probeOf(containertest.ExitCommand, "1"))
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.pass(2 * time.Minute)
		d.expectPhase(web, wire.PhaseFailed, "service front: is not ready: its readiness probe failed: command exit exited with code 1: line 0")
		d.podman.Check(image, probeOf(containertest.ExitCommand, "0"))
		d.gateway.issue("e1", deployments{web: {"front": command("other")}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}
