package containertest

import (
	"errors"
	"slices"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// testNetworks: what is made, found and removed, of both kinds, and only by those to whom it
// belongs. A network that is lost is made again.
func testNetworks(t *testing.T, s Subject) {
	for _, mode := range []container.NetworkMode{container.NetworkBridge, container.NetworkShared} {
		t.Run(string(mode), func(t *testing.T) {
			spec := s.spec(t, "net-"+string(mode), s.Sleep)
			n := &spec.Network
			*n = container.Network{Mode: mode, Owner: container.LabelValue(spec.Ref), Hosts: []string{"far:192.0.2.1"}, Ports: []container.Port{{Host: freePort(t), Inside: 80, Protocol: container.TCP}}}
			n.Name, _ = container.NamedNetwork(spec.Ref, "", false)
			if mode == container.NetworkShared {
				n.Name = container.SharedNetwork(spec.Ref, n)
			}
			if _, err := s.Runtime.Create(t.Context(), spec); err == nil {
				t.Error("a container was made whose network is not there")
			}
			for range 2 {
				if err := s.Runtime.EnsureNetwork(t.Context(), n); err != nil {
					t.Fatal(err)
				}
			}
			id := s.run(t, spec)
			if c := s.one(t, spec.Ref); c.State != container.StateRunning || c.Network != n.Name {
				t.Errorf("the container is %+v", c)
			}
			if names, err := s.Runtime.Networks(t.Context(), spec.Ref); err != nil || !slices.Equal(names, []string{n.Name}) {
				t.Errorf("networks are %v, %v", names, err)
			}
			if err := s.Runtime.HaltNetwork(t.Context(), n.Name); err != nil {
				t.Error(err)
			}
			if c := s.one(t, spec.Ref); c.State != container.StateRunning {
				t.Errorf("to halt the network ended a container of it: %s", c.State)
			}
			if err := s.Runtime.RemoveNetwork(t.Context(), n.Name); !errors.Is(err, container.ErrNetworkInUse) {
				t.Errorf("removing it while it is in use: %v", err)
			}
			if err := errors.Join(s.Runtime.Stop(t.Context(), id, 0), s.Runtime.HaltNetwork(t.Context(), n.Name)); err != nil {
				t.Error(err)
			}
			if err := s.Runtime.RemoveNetwork(t.Context(), n.Name); !errors.Is(err, container.ErrNetworkInUse) {
				t.Errorf("removing it while a container is connected that does not run: %v", err)
			}
			if err := errors.Join(s.Runtime.Start(t.Context(), id), s.Runtime.Stop(t.Context(), id, 0), s.Runtime.Remove(t.Context(), id)); err != nil {
				t.Error(err)
			}
			for range 2 {
				if err := s.Runtime.RemoveNetwork(t.Context(), n.Name); err != nil {
					t.Error(err)
				}
			}
			if names, err := s.Runtime.Networks(t.Context(), spec.Ref); err != nil || len(names) > 0 {
				t.Errorf("there still are %v, %v", names, err)
			}
		})
	}
}

// testModes: containers start in each way of connecting them that needs no network.
func testModes(t *testing.T, s Subject) {
	for name, mode := range map[string]container.NetworkMode{"private": container.NetworkPrivate, "host": container.NetworkHost, "none": container.NetworkNone} {
		spec := s.spec(t, "net-"+name, s.Sleep)
		spec.Network = container.Network{Mode: mode, Hosts: []string{"far:192.0.2.1"}}
		s.run(t, spec)
		if c := s.one(t, spec.Ref); c.State != container.StateRunning || c.Network != string(mode) {
			t.Errorf("%s: the container is %+v", name, c)
		}
	}
}
