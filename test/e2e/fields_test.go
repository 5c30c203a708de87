//go:build linux

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/test/lab"
)

// fieldCase is a Deployment with fields whose effect can be seen. All cases of all files are
// applied at once, to one machine of each suite, and must leave each other alone: a name, a
// host port and a directory belong to one case. A file fields_TOPIC_test.go adds its own:
//
//	func init() { fieldCases = append(fieldCases, …) }
type fieldCase struct {
	// name of the Deployment, in namespace fieldsNamespace.
	name string
	// service is what service web has besides name and image, as YAML in one line:
	// "workingDir: /tmp, hostname: box".
	service string
	// services are further services of the Deployment, each with name and image.
	services []string
	// data is what data has besides services: "minReadySeconds: 0".
	data string
	// objects are applied before, as YAML documents in fieldsNamespace: Secrets, ConfigMaps.
	objects string
	// prepare is a command of root's shell on the device, before anything is applied.
	prepare string
	// fails: the Deployment fails on the device with a message that matches.
	fails string
	// shows is what can be seen once the Deployment has succeeded, or, with fails, has failed.
	shows []shown
}

// shown is a command that shows what fields do.
type shown struct {
	// fields are paths below score.PodmanV0, without indexes and separated by blanks, that run
	// shows: "services.workingDir services.user".
	fields string
	// in is the service in whose container a shell runs the command; web when it is empty,
	// and onDevice for root's shell of the device.
	in string
	// run is the command, and want a regular expression for all that it prints, without
	// blanks around it.
	run, want string
}

const (
	fieldsNamespace = "fields"
	// onDevice: a command is for the device.
	onDevice = "/"
	// fieldsConfig is what agent.yaml allows besides.
	fieldsConfig = "bindRoots: [/srv]\n" +
		"allow: {devices: [/dev/serial/by-id], cdiDevices: [example.com/accelerator], hostServices: [udev, dbus], hostNamespaces: [network, pid, ipc], " +
		"capabilities: [NET_ADMIN], sysctls: [net.ipv4.ip_forward], seccompUnconfined: true}"
)

// fieldCases are those of all files, which add theirs as they are initialized.
var fieldCases []fieldCase

// shownElsewhere are fields that another test shows, and which: a step of TestLifeOfADevice, or
// one on virtual machines, since machines of the lab may have no controllers of control groups.
var shownElsewhere = map[string]string{
	"services.startupProbe": "probes", "services.livenessProbe": "probes", "services.readinessProbe": "probes",
	"minReadySeconds":                         "TestMinReady of pkg/agent/container/interpret: no container sees it",
	"services.resources.limits.memory":        "a container over its memory limit is killed, in test/vm",
	"services.resources.ioWeight":             "TestGenerate of pkg/podman: systemd gives accounts no io controller by itself",
	"services.securityContext.seLinuxOptions": "TestGenerate of pkg/podman: Debian has no SELinux by itself",
}

// TestEveryFieldHasACase: a field that nobody saw work is not there.
func TestEveryFieldHasACase(t *testing.T) {
	t.Parallel()
	var seen []string
	for _, c := range fieldCases {
		for _, s := range c.shows {
			seen = append(seen, strings.Fields(s.fields)...)
		}
	}
	known := fieldPaths("", reflect.TypeFor[score.PodmanV0]())
	for _, path := range known {
		if _, elsewhere := shownElsewhere[path]; !elsewhere && !slices.Contains(seen, path) {
			t.Errorf("no case shows what %s does", path)
		}
	}
	for _, path := range seen {
		if !slices.Contains(known, path) {
			t.Errorf("a case shows %s, which is no field", path)
		}
	}
}

// TestCasesAreAdmitted: no case keeps all others from being applied.
func TestCasesAreAdmitted(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, c := range fieldCases {
		var d v1alpha1.Deployment
		if err := yaml.UnmarshalStrict([]byte(c.manifest()), &d); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if _, err := score.Validate(d.Spec.Score.Type, d.Spec.Score.Data.Raw); err != nil || names[c.name] {
			t.Errorf("%s: %v, or its name is another one's", c.name, err)
		}
		names[c.name] = true
	}
}

// fieldPaths are the paths of the fields of a type that have none below them, and of those
// that are shown elsewhere.
func fieldPaths(at string, t reflect.Type) (paths []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if _, elsewhere := shownElsewhere[at]; elsewhere || t.Kind() != reflect.Struct {
		return []string{at}
	}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		paths = append(paths, fieldPaths(strings.TrimPrefix(at+"."+name, "."), f.Type)...)
	}
	return paths
}

// TestFieldsOfPodmanV0 applies all cases, and looks at their effects from inside of the
// containers, on one machine of each suite.
func TestFieldsOfPodmanV0(t *testing.T) {
	t.Parallel()
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, lab.Config{Name: "fields-" + suite, Suite: suite})
			s.prepareFields()
			s.applyFields()
			for _, c := range fieldCases {
				t.Run(c.name, func(t *testing.T) {
					whole := s.t
					s.t = t
					defer func() { s.t = whole }()
					s.showFields(c)
				})
			}
			for _, step := range []struct {
				name string
				run  func(*site)
			}{{"contents that change", (*site).reload}, {"networks that are lost", (*site).lostNetworks}, {"networks of an earlier agent", (*site).earlierNetworks}, {"files", (*site).files}} {
				t.Run(step.name, func(t *testing.T) {
					whole := s.t
					s.t = t
					defer func() { s.t = whole }()
					step.run(s)
				})
			}
		})
	}
}

func (s *site) prepareFields() {
	s.t.Helper()
	outside := s.startResolver(outsideAnswer)
	s.root("echo nameserver " + outside.address() + " >/etc/resolv.conf")
	s.copyHealth()
	script := "sed -i '/^bindRoots:/d' /etc/fleet-agent/agent.yaml; echo '" + fieldsConfig + "' >>/etc/fleet-agent/agent.yaml\n"
	for _, c := range fieldCases {
		script += c.prepare + "\n"
	}
	s.on("%s", "set -e\n"+script+"systemctl restart fleet-agent")
	s.trust(fieldsNamespace)
}

func (s *site) applyFields() {
	s.t.Helper()
	var documents []string
	for _, c := range fieldCases {
		documents = append(documents, c.objects)
	}
	for _, c := range fieldCases {
		documents = append(documents, c.manifest())
	}
	documents = slices.DeleteFunc(documents, func(d string) bool { return d == "" })
	_, err := s.server.Apply(s.t.Context(), strings.Join(documents, "\n---\n"))
	s.must(err)
}

// manifest is the Deployment of a case.
func (c *fieldCase) manifest() string {
	services := c.services
	if c.service != "" {
		services = append([]string{fmt.Sprintf("{name: web, image: %q, %s}", lab.HelloImage, c.service)}, services...)
	}
	data := c.data
	if data != "" {
		data = ", " + data
	}
	return fmt.Sprintf("{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment, metadata: {name: %s, namespace: %s}, "+
		"spec: {targetSelector: {matchLabels: {site: a}}, score: {type: PodmanV0, data: {services: [%s]%s}}}}",
		c.name, fieldsNamespace, strings.Join(services, ", "), data)
}

func (s *site) showFields(c fieldCase) {
	s.t.Helper()
	s.eventually(c.name+" is as expected", func() error {
		d, err := s.get(fieldsNamespace, c.name)
		if err != nil {
			return err
		}
		return c.judge(d)
	})
	for _, show := range c.shows {
		got, err := s.look(c.name, show)
		if want := regexp.MustCompile(`^(?s:` + show.want + `)$`); err != nil || !want.MatchString(got) {
			s.t.Errorf("%s: %s prints %q, want %s: %v", show.fields, show.run, got, want, err)
		}
	}
}

// judge says what a Deployment is instead of what the case expects.
func (c *fieldCase) judge(d *v1alpha1.Deployment) error {
	a := d.Status.Aggregate
	switch {
	case a == nil:
		conditions, _ := json.Marshal(d.Status.Conditions)
		return fmt.Errorf("no aggregate yet: %s", conditions)
	case c.fails == "" && a.Succeeded != 1:
		return fmt.Errorf("it has not succeeded: %+v, %+v", a, a.LastError)
	case c.fails != "" && (a.LastError == nil || !regexp.MustCompile(c.fails).MatchString(a.LastError.Message)):
		return fmt.Errorf("last error is %+v, want %s", a.LastError, c.fails)
	}
	return nil
}

// look runs the command, and returns what it prints.
func (s *site) look(deployment string, show shown) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), waitTimeout)
	defer cancel()
	run := func(name string, command ...string) (lab.Result, error) {
		if name == onDevice {
			return s.machine.Run(ctx, command...)
		}
		container := fieldsNamespace + "_" + deployment + "_" + name
		return s.machine.RunAs(ctx, lab.WorkloadUser, append([]string{"podman", "exec", container}, command...)...)
	}
	if show.in == "" {
		show.in = "web"
	}
	r, err := run(show.in, "sh", "-c", show.run)
	return strings.TrimSpace(r.Stdout + r.Stderr), err
}

// podmanInspect is a command for the device that prints what podman knows of the container of
// service web.
func podmanInspect(deployment, format string) string {
	return fmt.Sprintf("%spodman inspect --type container --format '%s' %s_%s_web", forWorkload, format, fieldsNamespace, deployment)
}
