package convert_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/convert"
)

type noFiles struct{}

func (noFiles) Text(string) (convert.File, bool) { return convert.File{}, false }

func (noFiles) Here(string) bool { return false }

func (noFiles) Directory(string) (convert.Directory, bool) { return convert.Directory{}, false }

// meaningless are fields that say nothing once a project is loaded, with the reason.
var meaningless = map[string]string{
	".name":                            "the key of the service",
	".profiles":                        "the profile is active",
	".attach":                          "of docker compose up",
	".extends.file":                    "compose-go extended the service",
	".extends.service":                 "compose-go extended the service",
	".env_file.path":                   "compose-go read it",
	".env_file.required":               "compose-go read it",
	".env_file.format":                 "compose-go read it",
	".label_file":                      "compose-go read it",
	".CustomLabels":                    "of docker compose",
	".expose":                          "services reach all ports of each other",
	".volumes.consistency":             "ignored by docker",
	".volumes.bind.create_host_path":   "whether a directory of the device is there is seen on the device",
	".networks.priority":               "there is one network",
	".networks.gw_priority":            "there is one network",
	".networks.use_service_name_alias": "true is the default",
	".healthcheck.start_period":        "nothing is restarted for a readiness probe",
}

func ptr[T any](v T) *T { return &v }

// rich is a service of which each list has an item that is translated.
func rich(volume types.ServiceVolumeConfig) reflect.Value {
	s := types.ServiceConfig{Name: "web"}
	s.Image, s.Restart = "nginx:1", "always"
	s.Ports = []types.ServicePortConfig{{Target: 80, Published: "8080", Protocol: "tcp", Mode: "ingress"}}
	s.Volumes = []types.ServiceVolumeConfig{volume}
	s.Devices = []types.DeviceMapping{{Source: "/dev/ttyUSB0", Target: "/dev/ttyUSB0", Permissions: "rwm"}}
	s.Networks = map[string]*types.ServiceNetworkConfig{"default": {}}
	s.HealthCheck = &types.HealthCheckConfig{Test: types.HealthCheckTest{"CMD", "true"}, Interval: ptr(types.Duration(time.Second))}
	s.MemLimit = 64 << 20
	s.PreStart = []types.PreStartHook{{ContainerSpec: types.ContainerSpec{Image: "busybox:1", Networks: map[string]*types.ServiceNetworkConfig{"default": {}}, Volumes: []types.ServiceVolumeConfig{volume}}}}
	s.PostStart = []types.ServiceHook{{Command: types.ShellCommand{"true"}}}
	s.PreStop = []types.ServiceHook{{Command: types.ShellCommand{"true"}}}
	s.Gpus = []types.DeviceRequest{{Capabilities: []string{"gpu"}, Count: -1}}
	s.Configs = []types.ServiceConfigObjConfig{{Source: "c", Target: "/c"}}
	s.Secrets = []types.ServiceSecretConfig{{Source: "s", Target: "/s"}}
	s.Logging = &types.LoggingConfig{Driver: "json-file"}
	return reflect.ValueOf(&s).Elem()
}

func translate(t *testing.T, s types.ServiceConfig) string {
	t.Helper()
	r := convert.Compose(&types.Project{
		Name: "p", WorkingDir: "/project", Services: types.Services{"web": s},
		Secrets: types.Secrets{"s": {File: "/project/s"}}, Configs: types.Configs{"c": {Content: "x"}},
	}, noFiles{})
	return checked(t, r)
}

// TestEveryFieldOfComposeCounts changes every leaf of a service by itself: the translation or
// its losses must change, too.
func TestEveryFieldOfComposeCounts(t *testing.T) {
	t.Parallel()
	for name, volume := range map[string]types.ServiceVolumeConfig{
		"volume": {Type: "volume", Source: "data", Target: "/data", Volume: &types.ServiceVolumeVolume{}},
		"bind":   {Type: "bind", Source: "/srv", Target: "/data", Bind: &types.ServiceVolumeBind{}},
		"tmpfs":  {Type: "tmpfs", Target: "/data", Tmpfs: &types.ServiceVolumeTmpfs{}},
	} {
		base := translate(t, rich(volume).Interface().(types.ServiceConfig))
		n := 0
		changes(func() reflect.Value { return copied(t, volume) }, "yaml", func(path string, changed reflect.Value) {
			n++
			if meaningless[path] != "" || meaningless[strings.TrimPrefix(path, ".pre_start")] != "" {
				return
			}
			if got := translate(t, changed.Interface().(types.ServiceConfig)); got == base {
				t.Errorf("%s: %s changes neither the translation nor what is reported", name, path)
			}
		})
		if n < 250 {
			t.Errorf("only %d fields were changed", n)
		}
	}
}

// copied is a service that shares no pointer with another one.
func copied(t *testing.T, volume types.ServiceVolumeConfig) reflect.Value {
	t.Helper()
	if volume.Volume != nil {
		volume.Volume = &types.ServiceVolumeVolume{}
	}
	if volume.Bind != nil {
		volume.Bind = &types.ServiceVolumeBind{}
	}
	if volume.Tmpfs != nil {
		volume.Tmpfs = &types.ServiceVolumeTmpfs{}
	}
	return rich(volume)
}
