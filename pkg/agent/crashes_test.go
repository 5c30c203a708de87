package agent_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/score"
)

// expectCrashes checks what is kept of ends that nobody asked for, as "<service> <exit
// code> <cause>".
func (d *device) expectCrashes(what string, want ...string) []crashes.Crash {
	d.t.Helper()
	all, err := crashes.Read(filepath.Join(d.dir, "crashes"))
	if err != nil {
		d.t.Fatal(err)
	}
	var got []string
	for _, c := range all {
		got = append(got, fmt.Sprint(c.Service, " ", c.ExitCode, " ", c.Cause))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		d.t.Errorf("%s: %s", what, diff)
	}
	return all
}

// What a service wrote before it crashed stays on the device for as long as its
// Deployment, also over a restart of the agent.
func TestCrashesAreKept(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.Says("shop_web_front", "no such\nhost: db\n")
		d.gateway.issue("e1", deployments{web: {"front": command(containertest.ExitCommand, "3")}, api: {"one": nil}})
		d.pass(10 * time.Minute)
		all := d.expectCrashes("a crash loop", "front 3 ", "front 3 ", "front 3 ")
		c := all[0]
		if string(c.Output) != "no such\nhost: db\n" || c.Container != "shop_web_front" || c.Image != image || c.Boot != "first" ||
			c.Uptime <= 0 || c.Restarts < 5 || c.Seen.IsZero() || c.Seen.Sub(c.Ended) > time.Second {
			t.Errorf("it says %+v", c)
		}
		d.podman.Exit("shop_api_one", 0)
		d.pass(time.Minute)
		d.restart()
		d.pass(time.Second)
		d.expectCrashes("one that is to go on ended well", "one 0 ", "front 3 ", "front 3 ", "front 3 ")
		d.podman.Vanish("shop_api_one")
		d.pass(2 * time.Minute)
		d.expectCrashes("one without a process", "one 0 had no process any more, though podman believed that it runs: it is made anew", "one 0 ", "front 3 ", "front 3 ", "front 3 ")
		d.gateway.issue("e1", deployments{api: {"one": nil}})
		d.settle()
		d.expectCrashes("the Deployment was deleted", "one 0 had no process any more, though podman believed that it runs: it is made anew", "one 0 ")
	})
}

// What the agent ends, what does its job, and what goes down with the device did not
// crash.
func TestEndsThatAreNoCrashes(t *testing.T) {
	onDevice(t, func(d *device) {
		job := func(s *score.Service) { s.Restart = score.RestartOnFailure; command(containertest.ExitCommand, "0")(s) }
		d.gateway.issue("e1", deployments{web: {"front": nil, "job": job}, api: {"one": nil}})
		d.settle()
		d.gateway.issue("e1", deployments{web: {"front": onPort(81), "job": job}}) // one is replaced, one removed
		d.pass(2 * time.Minute)
		d.podman.DownAfter("stop shop_web_front") // before it is removed
		d.gateway.issue("e1", deployments{web: {"job": job}})
		d.pass(time.Minute)
		d.podman.SetDown(false)
		d.gateway.issue("e1", deployments{web: {"front": onPort(81), "job": job}})
		d.pass(2 * time.Minute)
		d.stop()
		d.podman.Cut()
		d.boot, d.on = "second", time.Now()
		d.start()
		d.pass(time.Minute)
		d.expectCrashes("the control fails")
		d.podman.Exit("shop_web_front", 0)
		d.pass(time.Minute)
		d.expectCrashes("the control", "front 0 ")
	})
}

// A service that the agent ends because of a probe crashed, whatever its exit code.
func TestAnEndByAProbeIsACrash(t *testing.T) {
	onDevice(t, func(d *device) {
		d.ports.open.Store(true)
		d.gateway.issue("e1", deployments{web: {"front": alive}})
		d.settle()
		d.ports.open.Store(false)
		d.pass(6 * time.Second)
		d.expectCrashes("its liveness probe fails", "front 143 its liveness probe failed: port 80: connection refused")
	})
}
