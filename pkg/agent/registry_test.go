package agent_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func fromImage(image string) func(*score.Service) {
	return func(s *score.Service) { s.Image = image }
}

// Only a pull from the fleet's own registry shows its credentials, and makes
// the runtime trust it.
func TestCredentialsOfTheFleetsRegistry(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.look(func() {
			d.gateway.registry = &wire.RegistryReply{Registries: []string{"gw:8443", "10.0.0.1:8443"}, User: "press-1", Password: "p"}
		})
		d.gateway.issue("e1", deployments{web: {
			"a": fromImage("gw:8443/app:1"), "b": fromImage("other.example.com:5000/app:1"), "c": fromImage("gw.example.com/app:1"), "d": fromImage("localhost/app:2"),
		}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		if diff := cmp.Diff([]container.Login{{Registry: "gw:8443", User: "press-1", Password: "p"}}, d.podman.Logins()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"gw:8443"}, d.trusted); diff != "" {
			t.Error(diff)
		}
	})
}

// Without credentials the pull is tried all the same: the registry may be
// another, and the server away. What is reported then names both.
func TestPullWithoutCredentials(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"a": fromImage("gw:8443/app:1")}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.PullFunc = func(context.Context, string) error { return errors.New("podman's words") }
		d.gateway.issue("e1", deployments{web: {"a": fromImage("gw:8443/app:2")}})
		d.settle()
		d.expectPhase(web, wire.PhaseFailed, "podman's words")
		if s := d.gateway.state(web); !strings.Contains(s.Error, errOffline.Error()) {
			t.Errorf("error is %q", s.Error)
		}
	})
}
