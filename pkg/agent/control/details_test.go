package control_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestJoin(t *testing.T) {
	t.Parallel()
	web, api := wire.DeploymentRef{Namespace: "shop", Name: "web"}, wire.DeploymentRef{Namespace: "shop", Name: "api"}
	of := func(ref wire.DeploymentRef, service string) services.Name {
		return services.Name{DeploymentRef: ref, Service: service}
	}
	running := func(service string) wire.ContainerState {
		return wire.ContainerState{Service: service, State: "running"}
	}
	front, old, one := running("front"), running("old"), running("one")
	for name, tt := range map[string]struct {
		wanted []control.Service
		states []wire.DeploymentState
		want   []control.Service
	}{
		"nothing": {nil, nil, []control.Service{}},
		"the score is not known": {nil, []wire.DeploymentState{{DeploymentRef: web, Containers: []wire.ContainerState{front}}},
			[]control.Service{{Name: of(web, "front"), Container: &front}}},
		"some are missing and some too many": {
			[]control.Service{{Name: of(web, "new"), WantedImage: "n"}, {Name: of(web, "front"), WantedImage: "f"}},
			[]wire.DeploymentState{
				{DeploymentRef: web, Phase: wire.PhaseFailed, Error: "pulling image n: no route", Containers: []wire.ContainerState{front, old}},
				{DeploymentRef: api, Phase: wire.PhaseRunning, Containers: []wire.ContainerState{one}},
			},
			[]control.Service{
				{Name: of(api, "one"), Container: &one},
				{Name: of(web, "front"), WantedImage: "f", Container: &front},
				{Name: of(web, "new"), WantedImage: "n", Why: "pulling image n: no route"},
				{Name: of(web, "old"), Unwanted: true, Container: &old},
			},
		},
		"one fails": {
			[]control.Service{{Name: of(web, "front"), WantedImage: "f"}, {Name: of(web, "new"), WantedImage: "n"}},
			[]wire.DeploymentState{{DeploymentRef: web, Phase: wire.PhaseFailed, Error: "service front: exited with code 3", Containers: []wire.ContainerState{front}}},
			[]control.Service{{Name: of(web, "front"), WantedImage: "f", Container: &front, Why: "exited with code 3"}, {Name: of(web, "new"), WantedImage: "n"}},
		},
	} {
		if diff := cmp.Diff(tt.want, control.Join(tt.wanted, tt.states)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
