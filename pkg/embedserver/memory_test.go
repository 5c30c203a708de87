package embedserver_test

import (
	"testing"
	"testing/fstest"

	"fleet.nationtech.io/fleet/pkg/embedserver"
)

func TestLowestLimit(t *testing.T) {
	t.Parallel()
	groups := func(files map[string]string) fstest.MapFS {
		m := fstest.MapFS{}
		for name, content := range files {
			m[name] = &fstest.MapFile{Data: []byte(content + "\n")}
		}
		return m
	}
	const unit = "/system.slice/fleet-server.service"
	for name, tc := range map[string]struct {
		group string
		files map[string]string
		want  int64
		ok    bool
	}{
		"none":           {unit, map[string]string{"system.slice/fleet-server.service/memory.max": "max"}, 0, false},
		"no controller":  {unit, nil, 0, false},
		"of the unit":    {unit, map[string]string{"system.slice/fleet-server.service/memory.max": "1000"}, 1000, true},
		"soft":           {unit, map[string]string{"system.slice/fleet-server.service/memory.max": "1000", "system.slice/fleet-server.service/memory.high": "800"}, 800, true},
		"of the slice":   {unit, map[string]string{"system.slice/fleet-server.service/memory.max": "1000", "system.slice/memory.max": "500"}, 500, true},
		"in a container": {"/", map[string]string{"memory.max": "300"}, 300, true},
		"above the root": {"//../x", map[string]string{"memory.max": "300"}, 300, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, ok := embedserver.LowestLimit(groups(tc.files), tc.group); got != tc.want || ok != tc.ok {
				t.Errorf("limit is %d, %v, want %d, %v", got, ok, tc.want, tc.ok)
			}
		})
	}
}

func TestSoftLimit(t *testing.T) {
	t.Parallel()
	for memory, want := range map[int64]int64{0: 0, 128 << 20: 256 << 20, 1 << 30: 768 << 20, 8 << 30: 6 << 30} {
		if got := embedserver.SoftLimit(memory); got != want {
			t.Errorf("of %d: %d, want %d", memory, got, want)
		}
	}
}
