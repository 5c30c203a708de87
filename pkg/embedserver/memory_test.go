package embedserver_test

import (
	"testing"
	"testing/fstest"

	"fleet.nationtech.io/fleet/pkg/embedserver"
)

func TestLimitOfControlGroups(t *testing.T) {
	t.Parallel()
	groups := func(files map[string]string) fstest.MapFS {
		m := fstest.MapFS{}
		for name, content := range files {
			m[name] = &fstest.MapFile{Data: []byte(content + "\n")}
		}
		return m
	}
	const (
		v2   = "0::/system.slice/fleet-server.service\n"
		v1   = "12:pids:/system.slice/fleet-server.service\n5:cpu,memory:/system.slice/fleet-server.service\n1:name=systemd:/system.slice/fleet-server.service\n0::/\n"
		none = "9223372036854771712" // of version 1
	)
	for name, tc := range map[string]struct {
		own   string
		files map[string]string
		want  int64
		ok    bool
	}{
		"none":                     {v2, map[string]string{"system.slice/fleet-server.service/memory.max": "max"}, 0, false},
		"no controller":            {v2, nil, 0, false},
		"no groups":                {"", map[string]string{"memory.max": "300"}, 0, false},
		"damaged":                  {"0:/x\n", map[string]string{"memory.max": "300"}, 0, false},
		"of the unit":              {v2, map[string]string{"system.slice/fleet-server.service/memory.max": "1000"}, 1000, true},
		"soft":                     {v2, map[string]string{"system.slice/fleet-server.service/memory.max": "1000", "system.slice/fleet-server.service/memory.high": "800"}, 800, true},
		"of the slice":             {v2, map[string]string{"system.slice/fleet-server.service/memory.max": "1000", "system.slice/memory.max": "500"}, 500, true},
		"in a container":           {"0::/\n", map[string]string{"memory.max": "300"}, 300, true},
		"above the root":           {"0:://../x\n", map[string]string{"memory.max": "300"}, 300, true},
		"of version 1":             {v1, map[string]string{"memory/system.slice/fleet-server.service/memory.limit_in_bytes": "700", "memory/memory.limit_in_bytes": none}, 700, true},
		"of a slice of version 1":  {v1, map[string]string{"memory/system.slice/fleet-server.service/memory.limit_in_bytes": none, "memory/system.slice/memory.limit_in_bytes": "600"}, 600, true},
		"a container of version 1": {v1, map[string]string{"memory/memory.limit_in_bytes": "200"}, 200, true},
		"none of version 1":        {v1, map[string]string{"memory/memory.limit_in_bytes": none}, 1<<63 - 1<<12, true},
		"another controller":       {"3:cpuset:/x\n", map[string]string{"memory/x/memory.limit_in_bytes": "200"}, 0, false},
		"both":                     {v1, map[string]string{"memory.max": "100", "memory/memory.limit_in_bytes": "200"}, 100, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, ok := embedserver.LimitOf(groups(tc.files), tc.own); got != tc.want || ok != tc.ok {
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
