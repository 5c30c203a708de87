package bind_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree makes a device with a root for mounts and a state directory in it.
func tree(t *testing.T) (base string) {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"srv/www", "srv/agent/state", "srv2", "etc"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{"srv/out": "../etc", "srv/in": "www", "srv/tostate": "agent/state", "srv/torun": "/run", "alias": "srv"}
	for link, target := range links {
		if err := os.Symlink(target, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	return base
}

func workload(path string) *plan.Workload {
	return &plan.Workload{Services: []container.Spec{{Service: "web", Mounts: []container.Mount{
		{Volume: "v", Path: "/v"}, {HostPath: path, Path: "/m", ReadOnly: true},
	}}}}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		roots []string
		path  string
		want  string // empty: refused
	}{
		"under the root":         {[]string{"srv"}, "srv/www", "srv/www"},
		"nested in it":           {[]string{"srv"}, "srv/in", "srv/www"},
		"root by an alias":       {[]string{"alias"}, "srv/www", "srv/www"},
		"path by an alias":       {[]string{"srv"}, "alias/www", "srv/www"},
		"no roots":               {nil, "srv/www", ""},
		"same prefix, other dir": {[]string{"srv"}, "srv2", ""},
		"link out of the root":   {[]string{"srv"}, "srv/out", ""},
		"dots out of the root":   {[]string{"srv"}, "srv/../etc", ""},
		"absent":                 {[]string{"srv"}, "srv/none", ""},
		"state":                  {[]string{"srv"}, "srv/agent/state", ""},
		"link to the state":      {[]string{"srv"}, "srv/tostate", ""},
		"parent of the state":    {[]string{"srv"}, "srv/agent", ""},
		"the root itself":        {[]string{"srv"}, "srv", ""},
		"link to the runtime":    {[]string{"srv", "/run"}, "srv/torun", ""},
		"runtime":                {[]string{"/"}, "/run", ""},
		"everything":             {[]string{"/"}, "/", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := tree(t)
			policy := bind.Policy{Forbidden: []string{filepath.Join(base, "srv/agent/state")}}
			for _, r := range tt.roots {
				policy.Roots = append(policy.Roots, at(base, r))
			}
			in := workload(at(base, tt.path))
			got, err := policy.Resolve(in)
			if tt.want == "" {
				if !errors.Is(err, bind.ErrRefused) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(workload(at(base, tt.want)), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func at(base, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return base + "/" + path // not cleaned: the policy has to cope
}
