package podman_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/podman"
)

// TestGenerate: what no machine of the tests can keep is at least asked for.
func TestGenerate(t *testing.T) {
	t.Parallel()
	plain := podman.Generate(&container.Spec{Image: "localhost/a"}, nil)
	if plain.ResourceLimits != nil || plain.NoNewPrivileges != nil || plain.SelinuxOpts != nil || plain.Annotations != nil {
		t.Errorf("a service without options gets some: %+v", plain)
	}
	g := podman.Generate(&container.Spec{Image: "localhost/a", Options: container.Options{
		Rights: container.Rights{SELinux: []string{"type:spc_t"}},
		Bounds: container.Bounds{IOWeight: 200},
	}}, nil)
	if diff := cmp.Diff([]string{"type:spc_t"}, g.SelinuxOpts); diff != "" {
		t.Error(diff)
	}
	if g.ResourceLimits == nil || g.ResourceLimits.BlockIO == nil || *g.ResourceLimits.BlockIO.Weight != 200 {
		t.Errorf("limits are %+v", g.ResourceLimits)
	}
}
