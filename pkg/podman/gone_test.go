package podman

import "testing"

// Podman names the group of a process that is there.
func TestGone(t *testing.T) {
	t.Parallel()
	inspected := func(status, cgroups, group string) *inspection {
		i := &inspection{ID: "0123456789abcdef"}
		i.State.Status, i.State.CgroupPath, i.HostConfig.Cgroups = status, group, cgroups
		return i
	}
	for name, tt := range map[string]struct {
		i    *inspection
		want bool
	}{
		"its process is gone":     {inspected("running", "default", ""), true},
		"it ended":                {inspected("exited", "default", ""), false},
		"it is paused":            {inspected("paused", "default", ""), false},
		"it has no group":         {inspected("running", "disabled", ""), false},
		"a podman that says less": {inspected("running", "", ""), false},
		"the group of another":    {inspected("running", "default", "/init.scope"), false},
	} {
		if got := tt.i.gone(); got != tt.want {
			t.Errorf("%s: gone %t", name, got)
		}
	}
}
