package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent"
	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func withVolume(s *score.Service) {
	s.Volumes = []score.Volume{{Name: "data", MountPath: "/data"}}
}

// enrolled begins a test: the device runs one Deployment.
func (d *device) enrolled() {
	d.t.Helper()
	d.enrollment = "first"
	err := d.store().SaveIdentity(&store.Identity{Device: "pi-1", Enrollment: "first", Key: "key", Certificate: "certificate"})
	if err != nil {
		d.t.Fatal(err)
	}
	d.restart()
	d.gateway.issue("e1", deployments{web: {"front": withVolume}})
	d.settle()
	d.expectPhase(web, wire.PhaseRunning, "")
	d.podman.Calls()
}

func (d *device) store() *store.Store {
	d.t.Helper()
	s, err := store.Open(d.dir, slog.New(slog.DiscardHandler))
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// throwOut is what the server does to a revoked device.
func (d *device) throwOut(policy wire.Revocation) {
	d.gateway.revocations <- policy
	d.gateway.setOffline(true)
	d.settle()
}

// revoker is how credentials tell the agent that the device was revoked.
func (d *device) revoker() (revoke func(wire.Revocation)) {
	d.gateway.look(func() { revoke = d.gateway.revoke })
	return revoke
}

func (d *device) expectStanding(text string) {
	d.t.Helper()
	if s := d.agent.Status(); !strings.Contains(s.Standing, text) || text == "" && s.Standing != "" {
		d.t.Errorf("standing %q, want %q", s.Standing, text)
	}
}

func TestRevokedKeep(t *testing.T) {
	onDevice(t, func(d *device) {
		d.enrolled()
		d.throwOut("") // of a server that does not say
		d.podman.Exit("shop_web_front", 1)
		d.pass(time.Hour)
		d.expectCalls("start shop_web_front")
		d.expectStanding("keeps what it runs")
		d.expectStanding("enroll --force")
		d.restart()
		d.expectCalls()
		d.expectStanding("keeps what it runs")
		d.gateway.look(func() {
			if !d.gateway.rare {
				t.Error("the link asks as often as before")
			}
		})
	})
}

func TestRevokedStop(t *testing.T) {
	onDevice(t, func(d *device) {
		d.enrolled()
		d.throwOut(wire.RevocationStop)
		d.expectCalls("stop shop_web_front")
		d.expectStanding("are stopped")
		d.pass(24 * time.Hour)
		d.restart()
		d.pass(24 * time.Hour)
		d.expectCalls()
		d.podman.Restart("shop_web_front") // podman itself, at a boot
		d.pass(time.Minute)
		d.expectCalls("stop shop_web_front")
		d.revoker()(wire.RevocationKeep) // the operator thought better of it
		d.pass(time.Minute)
		d.expectCalls("start shop_web_front")
	})
}

// TestNewEnrollmentEndsRevocation: what the earlier one was told does not count.
func TestNewEnrollmentEndsRevocation(t *testing.T) {
	onDevice(t, func(d *device) {
		d.enrolled()
		d.throwOut(wire.RevocationStop)
		d.podman.Calls()
		d.enrollment = "second"
		d.gateway.setOffline(false)
		d.restart()
		d.pass(10 * time.Second)
		d.expectCalls("start shop_web_front")
		d.expectStanding("")
		if _, ok := d.store().Revocation(); ok {
			t.Error("the revocation stays on the disk")
		}
	})
}

// wiper starts what takes the agent's place, and returns when it has nothing to
// do any more. ended says whether it gave its place back.
func (d *device) wipe(wait time.Duration) (w *agent.Wiper, ended bool) {
	d.t.Helper()
	w = &agent.Wiper{Drivers: append(workload.Drivers{d.containers()}, d.further...), Store: d.store(), Version: "v1", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	ready := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, func() { close(ready) })
	}()
	<-ready
	d.pass(wait)
	select {
	case <-done:
		ended = true
	default:
	}
	cancel()
	<-done
	return w, ended
}

func (d *device) files() []string {
	d.t.Helper()
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// hasEnded reports whether the agent's Run returned by itself.
func (d *device) hasEnded() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

func TestRevokedWipe(t *testing.T) {
	onDevice(t, func(d *device) {
		d.enrolled()
		if err := os.WriteFile(d.dir+"/of-a-later-version", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		d.throwOut(wire.RevocationWipe)
		d.expectCalls() // the agent ends first
		if _, wiping, err := d.store().Wiping(); !wiping || err != nil || !d.hasEnded() {
			t.Fatalf("wiping %v: %v", wiping, err)
		}
		for range 3 { // starts after it is done change nothing
			w, ended := d.wipe(time.Second)
			if s := w.Status(); ended || s.Device != "pi-1" || !strings.Contains(s.Standing, "is wiped") {
				t.Errorf("ended %v, status %+v", ended, s)
			}
		}
		d.expectCalls("stop shop_web_front", "remove shop_web_front", "unvolume shop_web_data")
		if diff := cmp.Diff([]string{"bodies", "revocation.json"}, d.files()); diff != "" {
			t.Error(diff)
		}
		if bodies, err := os.ReadDir(d.dir + "/bodies"); err != nil || len(bodies) > 0 {
			t.Errorf("%v: %v", bodies, err)
		}
		if err := d.store().SaveIdentity(&store.Identity{Device: "pi-1", Enrollment: "second"}); err != nil {
			t.Fatal(err)
		}
		if _, wiping, err := d.store().Wiping(); wiping || err != nil {
			t.Errorf("wiping %v after a new enrollment: %v", wiping, err)
		}
	})
}

// TestWipeIsFinishedAfterAPowerCut: wherever it came.
func TestWipeIsFinishedAfterAPowerCut(t *testing.T) {
	onDevice(t, func(d *device) {
		d.enrolled()
		d.throwOut(wire.RevocationWipe)
		d.podman.SetDown(true)
		w, _ := d.wipe(time.Minute)
		if s := w.Status(); !strings.Contains(s.Standing, "is being wiped") || !strings.Contains(s.LastError, container.ErrUnavailable.Error()) {
			t.Errorf("status %+v", s)
		}
		if !slices.Contains(d.files(), "identity.json") {
			t.Error("the key went before the containers")
		}
		d.podman.SetDown(false)
		if err := errors.Join(d.store().Wipe("first"), os.Remove(d.dir+"/bodies")); err != nil { // the cut comes before this is noted
			t.Fatal(err)
		}
		d.wipe(time.Minute)
		d.expectCalls("stop shop_web_front", "remove shop_web_front", "unvolume shop_web_data")
		if diff := cmp.Diff([]string{"bodies", "revocation.json"}, d.files()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestEnrolledAgainBeforeTheWipeWasDone: what the earlier life left goes, the
// new identity stays.
func TestEnrolledAgainBeforeTheWipeWasDone(t *testing.T) {
	onDevice(t, func(d *device) {
		d.enrolled()
		d.throwOut(wire.RevocationWipe)
		if err := d.store().SaveIdentity(&store.Identity{Device: "pi-1", Enrollment: "second"}); err != nil {
			t.Fatal(err)
		}
		if _, ended := d.wipe(time.Minute); !ended {
			t.Error("the agent does not get its place back")
		}
		d.expectCalls("stop shop_web_front", "remove shop_web_front", "unvolume shop_web_data")
		if diff := cmp.Diff([]string{"bodies", "identity.json", "revocation.json"}, d.files()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestWipeIsFinal: a server that says something else afterwards is not heard.
func TestWipeIsFinal(t *testing.T) {
	onDevice(t, func(d *device) {
		d.enrolled()
		revoke := d.revoker()
		d.throwOut(wire.RevocationWipe)
		revoke(wire.RevocationKeep)
		if r, _ := d.store().Revocation(); r.Policy != wire.RevocationWipe {
			t.Errorf("policy %q", r.Policy)
		}
	})
}
