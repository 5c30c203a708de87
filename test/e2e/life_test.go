//go:build linux

package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/trace"
)

// TestLifeOfADevice goes through what happens to a device in one story, since
// a machine costs more than a step. Each step leaves the device with the
// Deployment "hello" on hostPort, or with nothing.
func TestLifeOfADevice(t *testing.T) {
	t.Parallel()
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, lab.Config{Name: "life-" + suite, Suite: suite})
			for _, step := range []struct {
				name string
				run  func(*site)
			}{
				{"apply starts a container", (*site).applyStartsAContainer},
				{"probes decide", (*site).probes},
				{"a person at the device", (*site).person},
				{"a missing image is a failure with podman's words", (*site).missingImage},
				{"an image of the gateway", (*site).gatewayImage},
				{"the only way out is a proxy", (*site).onlyWayOutIsAProxy},
				{"the device's resolvers change", (*site).resolversChange},
				{"an edit replaces the container once", (*site).editReplacesOnce},
				{"selector and label move the container", (*site).selectorAndLabel},
				{"a taken host port is named", (*site).takenHostPort},
				{"the agent's state cannot be bound", (*site).bindOfTheAgentsState},
				{"a mount that became a link", (*site).mountThatBecameALink},
				{"directories that the agent does not see", (*site).hiddenDirectories},
				{"users of images and directories", (*site).usersOfImages},
				{"an image of another architecture", (*site).otherArchitecture},
				{"a large score travels", (*site).largeScore},
				{"a container that fails is reported", (*site).failingContainer},
				{"a new version that cannot start", (*site).versionThatCannotStart},
				{"a crash loop backs off", (*site).crashLoop},
				{"a container whose monitor was killed", (*site).killedMonitor},
				{"a name that only podman's storage has", (*site).leftoverName},
				{"volumes stay until asked", (*site).volumes},
				{"a Secret reaches its container and no file", (*site).secret},
				{"a killed server restarts nothing", (*site).killedServer},
				{"a killed agent restarts nothing", (*site).killedAgent},
				{"a lost bus stops nothing", (*site).lostBus},
				{"two starts and an edit between", (*site).twoStarts},
				{"a device boots without its server", (*site).bootWithoutServer},
				{"podman's socket goes and comes", (*site).podmanSocket},
				{"a Deployment is deleted while the device is off", (*site).deletedWhileOff},
				{"the last Deployment goes", (*site).lastDeployment},
				{"a revoked device wipes itself", (*site).wipe},
				{"a wiped device can be let in again", (*site).enrollAgain},
			} {
				ok := t.Run(step.name, func(t *testing.T) {
					whole := s.t
					s.t = t
					defer func() { s.t = whole }()
					step.run(s)
				})
				if !ok {
					return // what follows builds on it
				}
			}
		})
	}
}

func (s *site) applyStartsAContainer() {
	s.apply("hello", hello(hostPort))
	s.aggregate("hello", counts{1, 1, 0, 0})
	s.answers(hostPort)
	s.kubectl("wait", "--for=condition=Available", "--timeout=10s", "fleetdep/hello")
	s.containers("default_hello_web")
}

func (s *site) missingImage() {
	s.apply("missing", "{name: web, image: 'localhost/nosuch:1'}")
	d := s.aggregate("missing", counts{1, 0, 1, 0})
	e := d.Status.Aggregate.LastError
	if e == nil || e.Device != deviceName || !strings.Contains(e.Message, "localhost/nosuch:1") {
		s.t.Errorf("lastError is %+v, want podman's message about the image", e)
	}
	s.kubectl("delete", "fleetdep", "missing")
	s.containers("default_hello_web")
}

func (s *site) editReplacesOnce() {
	before := s.container("default_hello_web")
	s.apply("hello", strings.Replace(hello(hostPort), "{name: web,", "{name: web, env: [{name: EDITED, value: 'yes'}],", 1))
	s.aggregate("hello", counts{1, 1, 0, 0})
	after := s.container("default_hello_web")
	if before == after {
		s.t.Error("the container was not replaced")
	}
	// An unrelated Deployment makes the agent plan again.
	s.apply("other", "{name: web, image: 'localhost/hello:1'}")
	s.aggregate("other", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "other")
	s.containers("default_hello_web")
	if again := s.container("default_hello_web"); again != after {
		s.t.Errorf("the container is %s, want it untouched: %s", again, after)
	}
}

func (s *site) selectorAndLabel() {
	s.kubectl("patch", "fleetdep", "hello", "--type=merge", "-p", `{"spec":{"targetSelector":{"matchLabels":{"rack":"r1"}}}}`)
	s.aggregate("hello", counts{})
	s.containers()
	s.kubectl("label", "fleetdev", deviceName, "rack=r1")
	s.aggregate("hello", counts{1, 1, 0, 0})
	s.containers("default_hello_web")
	s.kubectl("patch", "fleetdep", "hello", "--type=merge", "-p", `{"spec":{"targetSelector":{"matchLabels":{"rack":null}}}}`)
	s.aggregate("hello", counts{1, 1, 0, 0})
}

func (s *site) takenHostPort() {
	s.apply("second", hello(hostPort))
	d := s.aggregate("second", counts{1, 0, 1, 0})
	e := d.Status.Aggregate.LastError
	if e == nil || !strings.Contains(e.Message, "default/hello") || !strings.Contains(e.Message, fmt.Sprint(hostPort)) {
		s.t.Errorf("lastError is %+v, want one that names default/hello and port %d", e, hostPort)
	}
	s.answers(hostPort)
	s.kubectl("delete", "fleetdep", "second")
	s.containers("default_hello_web")
}

// bindOfTheAgentsState: the namespace must allow bind mounts at all before the
// agent's own rule is what refuses.
func (s *site) bindOfTheAgentsState() {
	service := "{name: web, image: 'localhost/hello:1', volumes: [{hostPath: /var/lib/fleet-agent, mountPath: /state}]}"
	if err := s.tryApply("default", "thief", service); err == nil || !strings.Contains(err.Error(), "privilege privileged") {
		s.t.Errorf("error is %v, want one of what the namespace allows", err)
	}

	s.kubectl("create", "namespace", "trusted")
	s.kubectl("label", "namespace", "trusted", "fleet.nationtech.io/privilege=privileged")
	s.applyIn("trusted", "thief", service)
	d := s.aggregateIn("trusted", "thief", counts{1, 0, 1, 0})
	if e := d.Status.Aggregate.LastError; e == nil || !strings.Contains(e.Message, "/var/lib/fleet-agent") {
		s.t.Errorf("lastError is %+v, want one that names the directory", e)
	}
	s.kubectl("delete", "namespace", "trusted")
	s.containers("default_hello_web")
}

// mountThatBecameALink: a container replaces what it mounts by a link to
// podman's socket, and podman follows it when it restarts the container. An
// agent without today's rules started it.
func (s *site) mountThatBecameALink() {
	ctx := s.t.Context()
	root := func(command string) {
		s.t.Helper()
		_, err := s.machine.Output(ctx, "sh", "-c", command)
		s.must(err)
	}
	root("systemctl stop fleet-agent; echo 'bindRoots: [/srv]' >>/etc/fleet-agent/agent.yaml")
	root("install -d -o " + lab.WorkloadUser + " /srv/loose /srv/loose/sub /srv/firm/sub")
	s.podman("run", "--detach", "--restart", "always", "--name", "trusted_old_web", "--label", "fleet.nationtech.io/deployment=trusted_old",
		"--label", "fleet.nationtech.io/service=web", "--volume", "/srv/loose:/all", "--volume", "/srv/loose/sub:/part", lab.HelloImage)
	_, err := s.machine.OutputAs(ctx, lab.WorkloadUser, "sh", "-c", "rmdir /srv/loose/sub && ln -s /run/fleet-workload /srv/loose/sub")
	s.must(err)
	s.podman("restart", "trusted_old_web")
	s.podman("exec", "trusted_old_web", "sh", "-c", "test -S /part/podman.sock") // the control: it works

	root("systemctl start fleet-agent")
	s.containers("default_hello_web")
	root("rm /srv/loose/sub && install -d -o " + lab.WorkloadUser + " /srv/loose/sub")
	s.kubectl("create", "namespace", "trusted")
	s.kubectl("label", "namespace", "trusted", "fleet.nationtech.io/privilege=privileged")
	const service = "{name: web, image: 'localhost/hello:1', volumes: [{hostPath: %s, mountPath: /part}]}"
	s.applyIn("trusted", "loose", fmt.Sprintf(service, "/srv/loose/sub"))
	d := s.aggregateIn("trusted", "loose", counts{1, 0, 1, 0})
	if e := d.Status.Aggregate.LastError; e == nil || !strings.Contains(e.Message, "/srv/loose belongs to the account of the containers") {
		s.t.Errorf("lastError is %+v, want one that names the directory above", e)
	}
	s.applyIn("trusted", "firm", fmt.Sprintf(service, "/srv/firm/sub"))
	s.aggregateIn("trusted", "firm", counts{1, 1, 0, 0})
	s.containers("default_hello_web", "trusted_firm_web")
	s.podman("exec", "trusted_firm_web", "sh", "-c", "echo written >/part/file")
	s.kubectl("delete", "namespace", "trusted")
	s.containers("default_hello_web")
}

func (s *site) largeScore() {
	// Linux bounds one variable at 128 KiB, so the 200 KiB come in two.
	half := strings.Repeat("x", 100<<10)
	s.apply("large", fmt.Sprintf("{name: web, image: 'localhost/hello:1', env: [{name: A, value: %s}, {name: B, value: %s}]}", half, half))
	s.aggregate("large", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "large")
	s.containers("default_hello_web")
}

func (s *site) failingContainer() {
	s.apply("failing", `{name: web, image: 'localhost/hello:1', command: [sh, -c], args: ['exit 3'], restart: Never}`)
	d := s.aggregate("failing", counts{1, 0, 1, 0})
	if e := d.Status.Aggregate.LastError; e == nil || !strings.Contains(e.Message, "3") {
		s.t.Errorf("lastError is %+v, want one that names exit code 3", e)
	}
	s.apply("failing", `{name: web, image: 'localhost/hello:1', command: [sh, -c], args: ['exit 0'], restart: Never}`)
	s.aggregate("failing", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "failing")
	s.containers("default_hello_web")
}

// versionThatCannotStart: the previous one serves all the time.
func (s *site) versionThatCannotStart() {
	before := s.container("default_hello_web")
	s.apply("hello", strings.Replace(hello(hostPort), "{name: web,", "{name: web, command: [/app/missing],", 1))
	d := s.aggregate("hello", counts{1, 0, 1, 0})
	if e := d.Status.Aggregate.LastError; e == nil || !strings.Contains(e.Message, "service web: the new version cannot start, and the previous one goes on: ") || !strings.Contains(e.Message, "/app/missing") {
		s.t.Errorf("lastError is %+v, want one that names the command", e)
	}
	if after := s.container("default_hello_web"); after != before {
		s.t.Errorf("the container is %s, want it untouched: %s", after, before)
	}
	s.answers(hostPort)
	// One that starts and then ends is taken back.
	s.apply("hello", strings.Replace(hello(hostPort), "{name: web,", "{name: web, command: [sh, -c, 'echo no database >&2; exit 4'],", 1))
	s.eventually("the previous version is back", func() error {
		d, err := s.get("default", "hello")
		if err != nil {
			return err
		}
		if e := d.Status.Aggregate.LastError; e == nil || !strings.Contains(e.Message, "exited with code 4, 2 restarts, last output: no database") || !strings.Contains(e.Message, "the previous version runs again") {
			return fmt.Errorf("lastError is %+v", e)
		}
		return nil
	})
	s.answers(hostPort)
	s.apply("hello", hello(hostPort))
	s.aggregate("hello", counts{1, 1, 0, 0})
	s.containers("default_hello_web")
}

// crashLoop: the agent starts it again, and podman does not.
func (s *site) crashLoop() {
	s.apply("loop", `{name: web, image: 'localhost/hello:1', command: [sh, -c], args: ['echo bye; exit 3']}`)
	s.eventually("it was restarted", func() error {
		d, err := s.get("default", "loop")
		if err != nil {
			return err
		}
		if a := d.Status.Aggregate; a == nil || a.LastError == nil || !strings.Contains(a.LastError.Message, "service web: exited with code 3, 3 restarts, last output: bye") {
			return fmt.Errorf("aggregate is %+v", a)
		}
		return nil
	})
	if n := s.podman("inspect", "--type", "container", "--format", "{{.RestartCount}} {{.HostConfig.RestartPolicy.Name}}", "default_loop_web"); strings.TrimSpace(n) != "0 no" {
		s.t.Errorf("podman's restarts and policy are %q", n)
	}
	// All of it was seen in control groups, also from within the agent's unit.
	if asked, err := s.machine.Output(s.t.Context(), "sh", "-c", "journalctl --output cat _COMM=podman | grep -c '/libpod/events' || true"); err != nil || strings.TrimSpace(asked) != "0" {
		s.t.Errorf("podman was asked for events %s times: %v", asked, err)
	}
	s.kubectl("delete", "fleetdep", "loop")
	s.containers("default_hello_web")
}

// killedMonitor: podman believes in the container for ever.
func (s *site) killedMonitor() {
	ctx := s.t.Context()
	pids := s.podman("inspect", "--type", "container", "--format", "{{.State.ConmonPid}} {{.State.Pid}}", "default_hello_web")
	for _, pid := range strings.Fields(pids) {
		_, err := s.machine.Output(ctx, "kill", "-KILL", pid)
		s.must(err)
	}
	if state := s.podman("inspect", "--type", "container", "--format", "{{.State.Status}}", "default_hello_web"); strings.TrimSpace(state) != "running" {
		s.t.Logf("podman noticed: the container is %s", state) // which newer ones may
	}
	s.answers(hostPort)
	s.aggregate("hello", counts{1, 1, 0, 0})
	s.containers("default_hello_web")
}

// leftoverName: a power cut came between podman's two stores.
func (s *site) leftoverName() {
	ctx := s.t.Context()
	_, err := s.machine.Output(ctx, "systemctl", "stop", "fleet-agent")
	s.must(err)
	_, err = s.machine.OutputAs(ctx, lab.WorkloadUser, "sh", "-euc", `cd .local/share/containers/storage
		db=db.sql; [ -e $db ] || db=libpod/bolt_state.db
		cp $db /tmp/before; podman create --name default_leftover_web `+lab.HelloImage+`
		rm -f $db-wal $db-shm; cp /tmp/before $db; rm /tmp/before`)
	s.must(err)
	r, err := s.machine.RunAs(ctx, lab.WorkloadUser, "podman", "create", "--name", "default_leftover_web", lab.HelloImage)
	if err != nil || r.ExitCode == 0 || !strings.Contains(r.Stderr, "already in use") {
		s.t.Fatalf("the control: podman has no leftover: %+v, %v", r, err)
	}
	_, err = s.machine.Output(ctx, "systemctl", "start", "fleet-agent")
	s.must(err)
	s.apply("leftover", "{name: web, image: 'localhost/hello:1'}")
	s.aggregate("leftover", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "leftover")
	s.containers("default_hello_web")
}

// volumes also shows that what fleet did not make is left alone.
func (s *site) volumes() {
	s.podman("create", "--name", "bystander", lab.HelloImage)
	s.podman("volume", "create", "bystander")
	service := `{name: web, image: 'localhost/hello:1', volumes: [{name: data, mountPath: /data}]}`
	exists := func(volume string) bool {
		return slices.Contains(strings.Fields(s.podman("volume", "ls", "--format", "{{.Name}}")), volume)
	}
	s.apply("keeper", service)
	s.aggregate("keeper", counts{1, 1, 0, 0})
	s.podman("exec", "default_keeper_web", "sh", "-c", "echo kept > /data/file")
	s.kubectl("delete", "fleetdep", "keeper")
	s.containers("bystander", "default_hello_web")
	if !exists("default_keeper_data") {
		s.t.Error("the volume went with its Deployment, although nobody asked")
	}
	s.apply("keeper", service)
	s.aggregate("keeper", counts{1, 1, 0, 0})
	if got := s.podman("exec", "default_keeper_web", "cat", "/data/file"); got != "kept" {
		s.t.Errorf("the volume holds %q, want what was written before", got)
	}
	s.kubectl("patch", "fleetdep", "keeper", "--type=merge", "-p", `{"spec":{"volumeRetention":"Delete"}}`)
	s.aggregate("keeper", counts{1, 1, 0, 0})
	s.eventually("the device knows", func() error {
		out, err := s.machine.Output(s.t.Context(), "fleet-agent", "status", "-o", "json")
		if err == nil && !strings.Contains(out, "keeper") {
			err = fmt.Errorf("status is %s", out)
		}
		return err
	})
	s.kubectl("delete", "fleetdep", "keeper")
	s.containers("bystander", "default_hello_web")
	s.eventually("the volume goes", func() error {
		if exists("default_keeper_data") {
			return errors.New("it is still there")
		}
		return nil
	})
	if !exists("bystander") {
		s.t.Error("a volume that fleet did not make is gone")
	}
	s.podman("rm", "bystander")
	s.podman("volume", "rm", "bystander")
}

func (s *site) secret() {
	const first, second = "opensesame-first", "opensesame-second"
	s.apply("vault", `{name: web, image: 'localhost/hello:1', env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: door, key: password}}}],
	  volumes: [{secretName: door, mountPath: /run/door}]}`)
	s.kubectl("create", "secret", "generic", "door", "--from-literal=password="+first)
	s.aggregate("vault", counts{1, 1, 0, 0})
	s.holds(first)
	if r := s.grep("secretKeyRef"); r == "" {
		s.t.Error("the search finds nothing, not even the score")
	}
	// What the agent would have written without encryption: a search has to find it.
	const control = "/var/lib/fleet-agent/control"
	unsealed, err := json.Marshal(map[string]map[string][]byte{"door": {"password": []byte(first)}})
	s.must(err)
	s.must(s.machine.WriteFile(s.t.Context(), control, bytes.NewReader(unsealed), 0o600))
	if r := s.grep(trace.Forms(first)...); r != control {
		s.t.Errorf("the Secret is found in %q, want the control %s alone", r, control)
	}
	_, err = s.machine.Output(s.t.Context(), "rm", control)
	s.must(err)
	s.kubectl("delete", "secret", "door")
	s.kubectl("create", "secret", "generic", "door", "--from-literal=password="+second)
	s.holds(second)
	s.kubectl("delete", "fleetdep", "vault")
	s.kubectl("delete", "secret", "door")
	s.containers("default_hello_web")
	s.eventually("podman forgets the Secret", func() error {
		if left := s.podman("secret", "ls", "--quiet"); left != "" {
			return fmt.Errorf("secrets are %s", left)
		}
		return nil
	})
}

// holds waits until the container has the Secret's value, in both forms.
func (s *site) holds(value string) {
	s.t.Helper()
	s.eventually("the container has the Secret", func() error {
		out, err := s.machine.OutputAs(s.t.Context(), lab.WorkloadUser, "podman", "exec", "default_vault_web", "sh", "-c", "echo $PASSWORD $(cat /run/door/password)")
		if got := strings.TrimSpace(out); err == nil && got != value+" "+value {
			err = fmt.Errorf("it has %q", got)
		}
		return err
	})
}

// grep returns the files of the agent that contain one of some texts.
func (s *site) grep(texts ...string) string {
	s.t.Helper()
	args := []string{"grep", "--recursive", "--files-with-matches", "--text", "--fixed-strings"}
	for _, text := range texts {
		args = append(args, "--regexp="+text)
	}
	r, err := s.machine.Run(s.t.Context(), append(args, "/var/lib/fleet-agent", "/etc/fleet-agent", "/run/fleet-agent")...)
	s.must(err)
	return strings.TrimSpace(r.Stdout)
}

func (s *site) killedServer() {
	before := s.container("default_hello_web")
	s.restart(s.server.Kill)
	s.device("the device is back", "Connected", metav1.ConditionTrue)
	s.aggregate("hello", counts{1, 1, 0, 0})
	s.apply("new", "{name: web, image: 'localhost/hello:1'}")
	s.aggregate("new", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "new")
	s.containers("default_hello_web")
	if after := s.container("default_hello_web"); after != before {
		s.t.Errorf("the container is %s, want it untouched: %s", after, before)
	}
}

func (s *site) killedAgent() {
	before := s.container("default_hello_web")
	_, err := s.machine.Output(s.t.Context(), "systemctl", "kill", "--signal=KILL", "fleet-agent.service")
	s.must(err)
	s.apply("new", "{name: web, image: 'localhost/hello:1'}")
	s.aggregate("new", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "new")
	s.containers("default_hello_web")
	if after := s.container("default_hello_web"); after != before {
		s.t.Errorf("the container is %s, want it untouched: %s", after, before)
	}
}

func (s *site) lostBus() {
	before := s.container("default_hello_web")
	s.restart(func() {
		s.must(s.server.Stop())
		s.must(os.RemoveAll(filepath.Join(filepath.Dir(s.server.Kubeconfig()), "nats")))
	})
	s.device("the device is back", "Connected", metav1.ConditionTrue)
	s.aggregate("hello", counts{1, 1, 0, 0})
	if after := s.container("default_hello_web"); after != before {
		s.t.Errorf("the container is %s, want it untouched: %s", after, before)
	}
}

func (s *site) twoStarts() {
	s.restart(func() { s.must(s.server.Stop()) })
	s.apply("hello", hello(hostPort))
	s.restart(func() { s.must(s.server.Stop()) })
	s.aggregate("hello", counts{1, 1, 0, 0})
	if env := s.podman("inspect", "--type", "container", "--format", "{{.Config.Env}}", "default_hello_web"); strings.Contains(env, "EDITED") {
		s.t.Errorf("the environment is %s, want that of the newer score", env)
	}
	s.answers(hostPort)
}

func (s *site) bootWithoutServer() {
	ctx := s.t.Context()
	s.restart(func() {
		s.must(s.server.Stop())
		s.must(s.machine.PowerCut(ctx))
		s.must(s.machine.Link.Deconfigure(ctx))
		s.must(s.machine.Start(ctx))
		s.eventually("the container runs without network", func() error {
			out, err := s.machine.OutputAs(ctx, lab.WorkloadUser, "podman", "ps", "--format", "{{.Names}}")
			if err == nil && strings.TrimSpace(out) != "default_hello_web" {
				err = fmt.Errorf("containers are %q", out)
			}
			return err
		})
		s.must(s.machine.Link.Configure(ctx))
		s.answers(hostPort)
	})
	names := s.startResolver("192.0.2.4")
	s.root("echo nameserver " + names.address() + " >/etc/resolv.conf")
	s.resolves("192.0.2.4")
	s.root(": >/etc/resolv.conf")
	s.device("the device is back", "Connected", metav1.ConditionTrue)
	s.aggregate("hello", counts{1, 1, 0, 0})
}

func (s *site) podmanSocket() {
	before := s.container("default_hello_web")
	// After a boot, a socket that is stopped could still be about to be started.
	// It answers with an error for a unit that failed, which is fine.
	_, err := s.machine.RunAs(s.t.Context(), lab.WorkloadUser, "systemctl", "--user", "is-system-running", "--wait")
	s.must(err)
	// The agent, which connects again at once, can wake the service up between
	// the end of the one and of the other. And podman 4.3 starts itself again in a
	// user namespace and a scope of its own: then the end of the unit leaves a
	// podman behind that listens on.
	s.eventually("podman stops", func() error {
		_, err := s.machine.OutputAs(s.t.Context(), lab.WorkloadUser, "systemctl", "--user", "stop", "podman.socket", "podman.service")
		s.must(err)
		r, err := s.machine.RunAs(s.t.Context(), lab.WorkloadUser, "pkill", "--full", "^[^ ]*podman .*system service")
		if err == nil && r.ExitCode == 0 {
			err = errors.New("a podman outlived its unit and was told to stop")
		}
		if err != nil {
			return err
		}
		r, err = s.machine.RunAs(s.t.Context(), lab.WorkloadUser, "systemctl", "--user", "is-active", "podman.socket", "podman.service")
		if err == nil && strings.TrimSpace(r.Stdout) != "inactive\ninactive" {
			err = fmt.Errorf("states are %q", r.Stdout)
		}
		return err
	})
	if c := s.device("podman is missed", "PodmanReady", metav1.ConditionFalse); !strings.Contains(c.Message, lab.PodmanSocket) {
		s.t.Errorf("message is %q, want one that names the socket", c.Message)
	}
	_, err = s.machine.OutputAs(s.t.Context(), lab.WorkloadUser, "systemctl", "--user", "start", "podman.socket")
	s.must(err)
	s.device("podman is back", "PodmanReady", metav1.ConditionTrue)
	if after := s.container("default_hello_web"); after != before {
		s.t.Errorf("the container is %s, want it untouched: %s", after, before)
	}
}

func (s *site) deletedWhileOff() {
	s.apply("doomed", "{name: web, image: 'localhost/hello:1'}")
	s.aggregate("doomed", counts{1, 1, 0, 0})
	s.must(s.machine.Stop(s.t.Context()))
	s.kubectl("delete", "fleetdep", "doomed", "--timeout=15s")
	s.must(s.machine.Start(s.t.Context()))
	s.containers("default_hello_web")
}

func (s *site) lastDeployment() {
	s.kubectl("delete", "fleetdep", "hello", "--timeout=15s")
	s.containers()
}

func (s *site) wipe() {
	s.apply("hello", "{name: web, image: 'localhost/hello:1', volumes: [{name: data, mountPath: /data}]}")
	s.aggregate("hello", counts{1, 1, 0, 0})
	_, err := s.server.Run(s.t.Context(), "", "device", "revoke", deviceName, "--workloads", "wipe")
	s.must(err)
	s.containers()
	s.eventually("the device is empty and says so", func() error {
		if left := s.podman("volume", "ls", "--quiet"); left != "" {
			return fmt.Errorf("volumes are %s", left)
		}
		out, err := s.machine.Output(s.t.Context(), "fleet-agent", "status")
		if err == nil && !strings.Contains(out, "is wiped") {
			err = fmt.Errorf("status is %q", out)
		}
		return err
	})
	s.device("the device is gone", "Connected", metav1.ConditionFalse)
}

func (s *site) enrollAgain() {
	s.kubectl("delete", "fleetdev", deviceName)
	s.enroll()
	s.aggregate("hello", counts{1, 1, 0, 0})
	s.containers("default_hello_web")
}
