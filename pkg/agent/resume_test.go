package agent_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// The version that runs starts again after a power cut although the next one cannot be
// pulled.
func TestWhatRunsSurvivesAnUpdateThatCannotBePulled(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.pass(time.Minute)
		d.podman.SetPull(func(context.Context, string) error { return errOffline })
		d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/app:2")}})
		d.pass(time.Minute)
		d.losesPower()
		d.start()
		d.pass(time.Minute)
		d.expectCalls("start shop_web_front")
		d.pass(time.Hour)
		d.expectCalls()
		d.podman.SetPull(nil)
		d.gateway.setOffline(false)
		d.pass(10 * time.Minute)
		d.expectCalls(slices.Concat([]string{"pull localhost/app:2"}, prepared, swapped)...)
	})
}

// registry is one whose pulls take until it answers.
type registry chan error

func (r registry) pull(ctx context.Context, _ string) error {
	select {
	case err := <-r:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// After a power cut everything that ran starts before anything is pulled, which takes as long
// as a registry or a network that does not answer: what the pull is for, what is as it should
// be, and what the next version does not have any more.
func TestWhatRanStartsBeforeAPull(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil, "back": nil, "old": nil}})
		d.pass(time.Minute)
		r := make(registry)
		d.podman.SetPull(r.pull)
		d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/app:2"), "back": nil}})
		d.pass(time.Minute)
		d.losesPower()
		d.start()
		d.expectCallsInAnyOrder("start shop_web_back", "start shop_web_front", "start shop_web_old")
		for _, c := range d.podman.Running() {
			if late := c.Started.Sub(d.on); late > time.Second {
				t.Errorf("%s started after %v", c.Name, late)
			}
		}
		d.gateway.setOffline(false)
		d.pass(20 * time.Minute)
		d.expectCalls()
		r <- nil
		d.settle()
		d.expectCallsInAnyOrder(slices.Concat([]string{"pull localhost/app:2", "stop shop_web_old", "remove shop_web_old"}, preparedBeside, swapped)...)
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

// pulls lets the device run a service, and then pull its next version until the registry
// answers.
func (d *device) pulls() registry {
	r := make(registry)
	d.gateway.issue("e1", deployments{web: {"front": nil}})
	d.pass(time.Minute)
	d.podman.SetPull(r.pull)
	d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/app:2")}})
	d.pass(time.Minute)
	return r
}

// What ends while a pull takes long starts again meanwhile, and no more often than otherwise.
func TestWhatEndsDuringAPullStartsAgain(t *testing.T) {
	onDevice(t, func(d *device) {
		r := d.pulls()
		d.podman.Calls()
		d.podman.Exit("shop_web_front", 1)
		d.pass(10 * time.Second)
		d.expectCalls("start shop_web_front")
		d.pass(time.Minute)
		d.expectCalls()
		r <- nil
		d.settle()
		d.expectCalls(slices.Concat([]string{"pull localhost/app:2"}, prepared, swapped)...)
	})
}

// What cannot be started meanwhile is not tried all the time.
func TestAStartThatFailsDuringAPullIsTriedEverMoreRarely(t *testing.T) {
	onDevice(t, func(d *device) {
		r := d.pulls()
		before := d.podman.Starts()
		d.podman.Exit("shop_web_front", 1)
		d.podman.Outdate("shop_web_front")
		d.pass(50 * time.Minute)
		if n := d.podman.Starts() - before; n < 5 || n > 20 {
			t.Errorf("it was tried %d times in 50 minutes", n)
		}
		r <- nil
		d.settle()
	})
}

// What ran starts after a power cut also where the version that the manifest names cannot be
// applied, for want of its score or its Secrets, or because the device refuses it.
func TestWhatRanStartsAlthoughTheNextVersionCannotBeApplied(t *testing.T) {
	unknown := wire.Sum([]byte("unknown")).String()
	for name, tt := range map[string]struct {
		next func(*score.Service)
		edit func(*wire.Entry)
	}{
		"the score is missing": {command("new"), func(e *wire.Entry) { e.Hash = unknown }},
		"a Secret is missing":  {withSecret, func(e *wire.Entry) { e.SecretsDigest = unknown }},
		"a mount is refused":   {mounting("/etc", true), func(*wire.Entry) {}},
	} {
		t.Run(name, func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.gateway.issue("e1", deployments{web: {"front": nil}})
				d.pass(time.Minute)
				d.gateway.setOffline(true)
				d.gateway.issue("e1", deployments{web: {"front": tt.next}})
				d.gateway.edit(func(m *wire.Manifest) { tt.edit(&m.Entries[0]) })
				d.gateway.setOffline(false)
				d.pass(time.Minute)
				d.losesPower()
				d.start()
				d.expectCalls("start shop_web_front")
				d.pass(time.Hour)
				d.expectCalls()
			})
		})
	}
}

// What the device does not allow any more stays down after a power cut.
func TestWhatIsNotAllowedAnyMoreDoesNotStart(t *testing.T) {
	onDevice(t, func(d *device) {
		d.stop()
		d.allow.HostNamespaces = []string{driver.NamespaceNetwork}
		d.start()
		d.gateway.network = &score.Network{Mode: score.NetworkHost}
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.pass(time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
		d.losesPower()
		d.allow.HostNamespaces = nil
		d.start()
		d.pass(time.Hour)
		d.expectCalls()
	})
}

// Where an update is superseded before it is ready, and the next one cannot be pulled, the one
// that runs goes on: the version before it does not start beside it.
func TestWhatWasJustReplacedDoesNotComeBackBesideIt(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.gateway.issue("e1", deployments{web: {"front": command("b")}})
		d.pass(time.Second)
		d.podman.Calls()
		d.podman.SetPull(func(context.Context, string) error { return errOffline })
		d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/app:2")}})
		d.pass(time.Hour)
		d.expectCalls()
		d.podman.SetPull(nil)
		d.pass(10 * time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
		if twice := d.podman.Twice(); len(twice) > 0 {
			t.Errorf("two containers ran at one time: %v", twice)
		}
	})
}
