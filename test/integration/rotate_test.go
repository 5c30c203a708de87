package integration_test

import (
	"slices"
	"testing"

	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/adminapi"
	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// admin asks the server for what is no object of the API.
func (s *server) admin() *adminapi.Client {
	s.t.Helper()
	h, err := rest.HTTPClientFor(s.rest())
	if err != nil {
		s.t.Fatal(err)
	}
	return &adminapi.Client{HTTP: h, Host: s.rest().Host}
}

// Devices stay while the root and all authorities are replaced: those that are
// connected, and those that were away and know the old root only.
func TestDevicesSurviveANewRoot(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(map[string]string{"group": "a"})
	s.device(sim.Config{Device: "stays", Token: token})
	away, stop := s.device(sim.Config{Device: "away", Token: token})
	s.create(deployment("hello", "a"))
	s.aggregate("default", "hello", counts{2, 2, 0, 0})
	stop()
	reply, err := s.admin().RotateCA(t.Context(), adminapi.RotateRequest{Root: true})
	if err != nil || len(reply.Authorities) != 4 {
		t.Fatalf("authorities %v (%v)", reply.Authorities, err)
	}
	s.run(away)
	s.device(sim.Config{Device: "comes", Token: s.token(map[string]string{"group": "a"})})
	s.edit("default", "hello", change("after"))
	s.aggregate("default", "hello", counts{3, 3, 0, 0})

	pruned, err := s.admin().PruneCA(t.Context(), adminapi.PruneRequest{})
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]bool{}
	for _, k := range pruned.Kept {
		kept[k.Name] = true
		if k.Name == "device" && (!slices.Contains(k.Devices, "away") || !slices.Contains(k.Devices, "stays")) {
			t.Errorf("the device authority is kept for %v", k.Devices)
		}
	}
	if !kept["root"] || !kept["device"] || !kept["operator"] || kept["server"] {
		t.Errorf("kept: %+v, forgotten: %v", pruned.Kept, pruned.Forgotten)
	}
	s.stop()
	s.start()
	s.edit("default", "hello", change("again"))
	s.aggregate("default", "hello", counts{3, 3, 0, 0})
}

// change gives the containers of a Deployment other arguments.
func change(arg string) func(*v1alpha1.Deployment) {
	return func(d *v1alpha1.Deployment) { d.Spec.Score = deployment(d.Name, "a", arg).Spec.Score }
}
