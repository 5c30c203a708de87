package convert_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/convert"
)

// whole is a project with one of each part besides services.
func whole() *types.Project {
	s := types.ServiceConfig{Name: "web"}
	s.Image = "nginx:1"
	s.Networks = map[string]*types.ServiceNetworkConfig{"n": nil}
	s.Volumes = []types.ServiceVolumeConfig{{Type: "volume", Source: "v", Target: "/v"}}
	s.Configs = []types.ServiceConfigObjConfig{{Source: "c", Target: "/c"}}
	s.Secrets = []types.ServiceSecretConfig{{Source: "s", Target: "/s"}}
	return &types.Project{
		Name: "p", WorkingDir: "/project", Services: types.Services{"web": s},
		Networks: types.Networks{"n": {Name: "p_n"}}, Volumes: types.Volumes{"v": {Name: "p_v"}},
		Configs: types.Configs{"c": {Content: "x"}}, Secrets: types.Secrets{"s": {File: "/project/s"}},
	}
}

// TestEveryFieldOfNetworksAndVolumesCounts is as that of services.
func TestEveryFieldOfNetworksAndVolumesCounts(t *testing.T) {
	t.Parallel()
	text := func(p *types.Project) string {
		out, err := json.Marshal(convert.Compose(p, noFiles{}))
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	base := text(whole())
	without := map[string]bool{".CustomLabels": true, ".attachable": true, ".enable_ipv4": true}
	check := func(kind, path string, p *types.Project) {
		if !without[path] && text(p) == base {
			t.Errorf("%s: %s changes neither the translation nor what is reported", kind, path)
		}
	}
	changes(func() reflect.Value { return reflect.ValueOf(&types.NetworkConfig{Name: "p_n"}).Elem() }, "yaml", func(path string, v reflect.Value) {
		p := whole()
		p.Networks["n"] = v.Interface().(types.NetworkConfig)
		check("network", path, p)
	})
	changes(func() reflect.Value { return reflect.ValueOf(&types.VolumeConfig{Name: "p_v"}).Elem() }, "yaml", func(path string, v reflect.Value) {
		p := whole()
		p.Volumes["v"] = v.Interface().(types.VolumeConfig)
		check("volume", path, p)
	})
}

// TestTwoVolumesAreNeverOne: names that differ in what a label cannot have, and a directory of
// the name of a volume.
func TestTwoVolumesAreNeverOne(t *testing.T) {
	t.Parallel()
	p := whole()
	s := p.Services["web"]
	s.Volumes = []types.ServiceVolumeConfig{
		{Type: "volume", Source: "my_data", Target: "/a"}, {Type: "volume", Source: "my-data", Target: "/b"},
		{Type: "bind", Source: "/project/my-data", Target: "/c"}, {Type: "volume", Source: "my_data", Target: "/d"},
	}
	p.Services["web"] = s
	volumes := convert.Compose(p, noFiles{}).Deployments[0].Score.Services[0].Volumes
	names := map[string]bool{}
	for _, v := range volumes[:3] {
		names[v.Name] = true
	}
	if len(names) != 3 || volumes[0].Name != volumes[3].Name {
		t.Errorf("%+v", volumes)
	}
}
