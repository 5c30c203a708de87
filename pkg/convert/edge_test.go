package convert_test

import (
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/convert"
)

// What applications at the edge mount of a machine, and what becomes of it.
func TestMountsOfTheMachine(t *testing.T) {
	t.Parallel()
	for bind, tc := range map[string]struct{ has, lost string }{
		"/dev/pts:/dev/pts":             {"", "a container has /dev/pts of its own"},
		"/var/run/dbus:/host/run/dbus":  {"", "services of the device are at their own place in containers, and not at /host/run/dbus; mount /run/dbus there"},
		"/run/dbus:/run/dbus":           {`"hostServices":["dbus"]`, "cannot log in to D-Bus as they are"},
		"/run/udev:/run/udev":           {`"hostServices":["udev"]`, ""},
		"/etc:/host/etc":                {"", "no device lets a container mount /etc, as the agent's own is in it"},
		"/var/lib:/x":                   {"", "no device lets a container mount /var/lib, as the agent's own is in it"},
		"/var/lib/fleet-agent:/x":       {"", "as the agent's own is in it"},
		"/etc/localtime:/etc/localtime": {`"hostPath":"/etc/localtime"`, ""},
		"/etc/fleet:/x":                 {`"hostPath":"/etc/fleet"`, ""},
		"/sys:/host/sys":                {`"hostPath":"/sys"`, ""},
		"/proc:/host/proc":              {"", "no device lets a container mount /proc"},
		"/var/run/docker.sock:/x/sock":  {"", "no access to the runtime"},
	} {
		source, target, _ := strings.Cut(bind, ":")
		s := types.ServiceConfig{Name: "web", Restart: "always"}
		s.Image, s.Volumes = "nginx:1", []types.ServiceVolumeConfig{{Type: "bind", Source: source, Target: target}}
		r := convert.Compose(&types.Project{Name: "p", WorkingDir: "/project", Services: types.Services{"web": s}}, noFiles{})
		got, lost := checked(t, r), ""
		for _, l := range r.Losses {
			lost += l.Why + "; " + l.Instead
		}
		if !strings.Contains(got, tc.has) || !strings.Contains(lost, tc.lost) || (lost == "") != (tc.lost == "") {
			t.Errorf("%s: %s", bind, got)
		}
		if tc.has == "" && (strings.Contains(got, `"hostPath"`) || strings.Contains(got, `"devices"`)) {
			t.Errorf("%s is mounted: %s", bind, got)
		}
	}
}

// Who shares the network of another service has what that one has.
func TestSharedNetworks(t *testing.T) {
	t.Parallel()
	for of, tc := range map[string]struct{ mode, lost string }{
		"":     {`"mode":"Shared"`, ""},
		"host": {`"mode":"Host"`, ""},
		"none": {`"mode":"None"`, "services without a network have a loopback each"},
	} {
		services := types.Services{}
		for name, mode := range map[string]string{"vpn": of, "web": "service:vpn", "feed": "service:web"} {
			services[name] = types.ServiceConfig{Name: name, Restart: "always", ContainerSpec: types.ContainerSpec{Image: "nginx:1", NetworkMode: mode}}
		}
		r := convert.Compose(&types.Project{Name: "p", WorkingDir: "/project", Services: services}, noFiles{})
		if got := checked(t, r); len(r.Deployments) != 1 || !strings.Contains(got, tc.mode) {
			t.Errorf("network_mode %q: %d Deployments: %s", of, len(r.Deployments), got)
		}
		for _, l := range r.Losses {
			if tc.lost == "" || !strings.Contains(l.Why, tc.lost) {
				t.Errorf("network_mode %q: %s: %s", of, l.What(), l.Why)
			}
		}
		if len(r.Losses) == 0 && tc.lost != "" {
			t.Errorf("network_mode %q loses nothing", of)
		}
	}
}

// A check that says nothing itself leaves that of the image.
func TestChecksOfImages(t *testing.T) {
	t.Parallel()
	for want, check := range map[string]*types.HealthCheckConfig{
		"counts as readiness all the same": {Disable: true},
		"which counts as it is":            {Retries: new(uint64(3))},
	} {
		s := types.ServiceConfig{Name: "web", Restart: "always", WorkloadSpec: types.WorkloadSpec{HealthCheck: check}}
		s.Image = "nginx:1"
		r := convert.Compose(&types.Project{Name: "p", WorkingDir: "/project", Services: types.Services{"web": s}}, noFiles{})
		if len(r.Losses) != 1 || r.Losses[0].What() != "services.web.healthcheck" || !strings.Contains(r.Losses[0].Why, want) {
			t.Errorf("%v: %v", check, r.Losses)
		}
	}
}

// Pods as people write them.
func TestPodsAsTheyAre(t *testing.T) {
	t.Parallel()
	const pod = `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeSelector: {kubernetes.io/hostname: a, kubernetes.io/arch: arm64},
  securityContext: {runAsNonRoot: true, runAsUser: 65534}, volumes: [{name: c, configMap: {name: c}}],
  containers: [{name: web, image: docker.io/library/nginx:1, volumeMounts: [{name: c, mountPath: /etc/app/}]}]}}`
	r, err := convert.Kube([]string{"pod.yaml"}, [][]byte{[]byte(pod)}, &convert.Source{})
	if err != nil {
		t.Fatal(err)
	}
	if got := checked(t, r); !strings.Contains(got, `"mountPath":"/etc/app"`) {
		t.Errorf("the mount is lost: %s", got)
	}
	if len(r.Losses) != 1 || r.Losses[0].What() != "Pod/p.spec.nodeSelector.kubernetes.io/hostname" {
		t.Errorf("%v", r.Losses)
	}
}

// A path beside or above the compose file is one of the machine that converts.
func TestPathsOfThisMachine(t *testing.T) {
	t.Parallel()
	var s convert.Source
	s.Add("compose.yaml", []byte("services: {web: {volumes: ['../lib:/a', '~/b:/b', {type: bind, source: ../c, target: /c}, './d:/d', '/e:/e', 'f:/f']}}"))
	losses := s.Outside()
	var found []string
	for _, l := range losses {
		found = append(found, l.What())
	}
	if got := strings.Join(found, " "); got != "services.web.volumes[0] services.web.volumes[1] services.web.volumes[2]" {
		t.Errorf("%s", got)
	}
}

// The comment is what agent.yaml has, by the names of its reference.
func TestAllowedByAgents(t *testing.T) {
	t.Parallel()
	s := types.ServiceConfig{Name: "web", Restart: "always", ContainerSpec: types.ContainerSpec{Image: "nginx:1"}}
	text, err := convert.YAML(convert.Compose(&types.Project{Name: "p", WorkingDir: "/project", Services: types.Services{"web": s}}, noFiles{}), convert.Target{Namespace: "default"})
	if err != nil || strings.Contains(string(text), "#") {
		t.Errorf("what needs nothing has a comment: %s (%v)", text, err)
	}
	s.Devices = []types.DeviceMapping{{Source: "/dev/ttyUSB0", Target: "/dev/ttyUSB0", Permissions: "rwm"}}
	s.Volumes = []types.ServiceVolumeConfig{{Type: "bind", Source: "/srv/a", Target: "/a"}, {Type: "bind", Source: "/srv/a/b", Target: "/b"}}
	text, err = convert.YAML(convert.Compose(&types.Project{Name: "p", WorkingDir: "/project", Services: types.Services{"web": s}}, noFiles{}), convert.Target{Namespace: "default"})
	const want = "# Devices that run this have to allow it: add to /etc/fleet-agent/agent.yaml, and systemctl restart fleet-agent\n#\n" +
		"#   allow:\n#     devices:\n#     - /dev/ttyUSB0\n#   bindRoots:\n#   - /srv/a\n#\n# Its namespace needs privilege privileged.\napiVersion: fleet"
	if err != nil || !strings.HasPrefix(string(text), want) {
		t.Errorf("it begins with %.400s (%v)", text, err)
	}
}
