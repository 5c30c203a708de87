package agent_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func followsImage(s *score.Service) { s.PullPolicy = score.PullAlways }

// A name that may move is looked up at each change and once an hour, and not more often. When it
// moved, the container that follows it is replaced, and no other.
func TestMovingImage(t *testing.T) {
	onDevice(t, func(d *device) {
		looks := func(when string, wantPulls int, wantMade string) {
			t.Helper()
			pulls, made := 0, ""
			for _, call := range d.podman.Calls() {
				what, name, _ := strings.Cut(call, " ")
				switch what {
				case "pull":
					pulls++
				case "create":
					made += strings.TrimPrefix(name, "shop_web_")
				}
			}
			if pulls != wantPulls || !strings.HasPrefix(made, wantMade) || wantMade == "" && made != "" {
				t.Errorf("%s: %d pulls, want %d, and %q was made, want %q", when, pulls, wantPulls, made, wantMade)
			}
			d.expectPhase(web, wire.PhaseRunning, "")
		}
		of := func(port int) deployments { return deployments{web: {"front": followsImage, "back": onPort(port)}} }
		d.gateway.issue("e1", of(8080))
		d.pass(58 * time.Minute)
		d.podman.Calls()
		d.pass(4 * time.Minute)
		looks("an hour after the start", 1, "")
		d.podman.Publish(image)
		d.pass(57 * time.Minute)
		looks("before the next hour", 0, "")
		d.pass(2 * time.Minute)
		looks("when the name moved", 1, "front")
		d.podman.Publish(image)
		d.gateway.issue("e1", of(8081))
		d.pass(2 * time.Minute)
		if calls := strings.Join(d.podman.Calls(), "\n"); !strings.Contains(calls, "pull "+image) || !strings.Contains(calls, "create shop_web_front") {
			t.Errorf("at a change the calls are\n%s", calls)
		}
	})
}

// A registry that cannot be reached changes nothing, and the report says so until it can.
func TestMovingImageWithoutARegistry(t *testing.T) {
	onDevice(t, func(d *device) {
		var broken atomic.Bool
		d.podman.PullFunc = func(context.Context, string) error {
			if broken.Load() {
				return errors.New("no route to the registry")
			}
			return nil
		}
		d.gateway.issue("e1", deployments{web: {"front": followsImage, "back": nil}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.Calls()
		broken.Store(true)
		d.pass(time.Hour + time.Minute)
		if s := d.gateway.state(web); s.Phase != wire.PhaseRunning || !strings.Contains(s.Error, "no route to the registry") {
			t.Errorf("report %+v", s)
		}
		if calls := strings.Join(d.podman.Calls(), "\n"); strings.Contains(calls, "create") {
			t.Errorf("the calls are\n%s", calls)
		}
		broken.Store(false)
		d.pass(time.Hour)
		if s := d.gateway.state(web); s.Phase != wire.PhaseRunning || s.Error != "" {
			t.Errorf("with the registry back the report is %+v", s)
		}
	})
}
