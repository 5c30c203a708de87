package agent_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func followsImage(s *score.Service) { s.PullPolicy = score.PullAlways }

// A name that moved is followed within an hour, and replaces the container that follows it. A
// registry that cannot be reached changes nothing, and the report says so.
func TestMovingImage(t *testing.T) {
	onDevice(t, func(d *device) {
		broken := false
		d.podman.PullFunc = func(context.Context, string) error {
			if broken {
				return errors.New("no route to the registry")
			}
			return nil
		}
		d.gateway.issue("e1", deployments{web: {"front": followsImage, "back": nil}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.Calls()
		broken = true
		d.pass(time.Hour + time.Minute)
		if s := d.gateway.state(web); s.Phase != wire.PhaseRunning || !strings.Contains(s.Error, "no route to the registry") {
			t.Errorf("report %+v", s)
		}
		if calls := strings.Join(d.podman.Calls(), "\n"); strings.Contains(calls, "create") {
			t.Errorf("the calls are\n%s", calls)
		}
	})
}
