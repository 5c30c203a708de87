package plan_test

import (
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestAsBefore(t *testing.T) {
	t.Parallel()
	ref := wire.DeploymentRef{Namespace: "shop", Name: "net"}
	network := container.Network{Mode: container.NetworkBridge, Name: "shop_net"}
	w := &plan.Workload{
		Ref:      ref,
		Services: []container.Spec{{Ref: ref, Service: "a", Hash: "new-a", Network: network}, {Ref: ref, Service: "b", Hash: "new-b", Network: network}},
		Networks: []container.Network{network}, Before: map[string]string{"a": "old-a", "b": "old-b"},
	}
	made := func(service, hash string) container.Container {
		return container.Container{Ref: ref, Service: service, Hash: hash}
	}
	bridged := made("a", "new-a")
	bridged.Network = network.Name
	tests := map[string]struct {
		observed []container.Container
		renewed  bool
		before   bool
	}{
		"nothing is there":                        {nil, true, false},
		"an earlier agent made all of it":         {[]container.Container{made("a", "old-a"), made("b", "old-b")}, false, true},
		"the agent's memory was lost":             {[]container.Container{made("a", "old-a"), made("b", "old-b")}, true, true},
		"one was removed by hand":                 {[]container.Container{made("a", "old-a")}, false, true},
		"a service was added":                     {[]container.Container{made("a", "old-a")}, true, false},
		"a service was changed":                   {[]container.Container{made("a", "old-a"), made("b", "older-b")}, true, false},
		"a service was removed":                   {[]container.Container{made("a", "old-a"), made("b", "old-b"), made("c", "old-c")}, true, false},
		"the change has begun":                    {[]container.Container{bridged, made("b", "old-b")}, false, false},
		"containers of others are nobody's proof": {[]container.Container{{Ref: wire.DeploymentRef{Namespace: "x", Name: "y"}, Service: "a", Hash: "old-a"}}, false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := plan.AsBefore(w, tt.observed, tt.renewed)
			if before := got.Services[0].Hash == "old-a" && got.Services[1].Hash == "old-b" && got.Networks == nil; before != tt.before {
				t.Errorf("connected as before: %t", before)
			}
			if w.Services[0].Hash != "new-a" {
				t.Error("the workload itself was changed")
			}
		})
	}
}
