package podman

import (
	"testing"
	"testing/fstest"
)

// The kernel says whether a container has processes. Where it cannot tell, podman's word
// counts.
func TestAlive(t *testing.T) {
	t.Parallel()
	const id = "0123456789abcdef"
	const group = "/user.slice/user-998.slice/user@998.service/user.slice/libpod-" + id + ".scope/container"
	kernel := func(events string) fstest.MapFS {
		fs := fstest.MapFS{"cgroup.controllers": {Data: []byte("memory pids\n")}}
		if events != "" {
			fs[group[1:]+"/cgroup.events"] = &fstest.MapFile{Data: []byte(events)}
		}
		return fs
	}
	version1 := fstest.MapFS{"memory/cgroup.procs": {}}
	for name, tt := range map[string]struct {
		kernel    fstest.MapFS
		id, group string
		want      bool
	}{
		"it runs":                  {kernel("populated 1\nfrozen 0\n"), id, group, true},
		"its processes are gone":   {kernel("populated 0\nfrozen 0\n"), id, group, false},
		"its group is gone":        {kernel(""), id, group, false},
		"a group that none made":   {kernel(""), id, "/libpod_parent/libpod-" + id, true},
		"no group is named":        {kernel(""), id, "", true},
		"the group of another":     {kernel(""), "fedcba9876543210", group, true},
		"a path that leads out":    {kernel(""), id, "/../../" + id, true},
		"version 1":                {version1, id, group, true},
		"an answer without a word": {kernel("frozen 0\n"), id, group, true},
	} {
		if got := alive(tt.kernel, tt.id, tt.group); got != tt.want {
			t.Errorf("%s: alive %t", name, got)
		}
	}
}
