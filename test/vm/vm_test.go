//go:build linux

package vm_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/test/process"
	"fleet.nationtech.io/fleet/test/vm"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	waitTimeout  = 4 * time.Minute
	pollInterval = time.Second
	// asWorkload runs a command as the account of the containers.
	asWorkload = `cd / && runuser -u fleet-workload -- env HOME=/var/lib/fleet-workload XDG_RUNTIME_DIR=/run/user/$(id -u fleet-workload) `
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a gateway on this host and devices in virtual machines.
type site struct {
	t      *testing.T
	vms    *vm.Site
	server *process.Server
	// installer is what fetches install.sh from the gateway.
	installer string
	devices   []*vm.Machine
	boots     map[string]string // the id of the present boot, by device
}

// TestDevicesInVirtualMachines is what `make test-vm` runs.
func TestDevicesInVirtualMachines(t *testing.T) {
	if os.Getenv("FLEET_TEST_VM") == "" {
		t.Skip("virtual machines take minutes: run make test-vm")
	}
	s := newSite(t)
	for _, step := range []struct {
		name string
		run  func(*site)
	}{
		{"install and enroll", (*site).install},
		{"a container runs", (*site).apply},
		{"all is well", (*site).healthy},
		{"a container over its memory limit is killed", (*site).memoryLimit},
		{"a container keeps to its limits", (*site).limits},
		{"an agent over its memory limit comes back", (*site).agentMemory},
		{"a wrong clock", (*site).wrongClock},
		{"a reboot, with a controller less", (*site).reboot},
		{"a power cut, which brings it back", (*site).powerCut},
		{"uninstall", (*site).uninstall},
	} {
		start := time.Now()
		ok := t.Run(step.name, func(t *testing.T) {
			s.t = t
			step.run(s)
		})
		s.t = t
		t.Logf("%s: %s", step.name, time.Since(start).Round(time.Second))
		if !ok {
			return // what follows builds on it
		}
	}
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, boots: map[string]string{}}
	cache, err := filepath.Abs("../../.cache/vm")
	s.must(err)
	s.vms, err = vm.Open(t.Context(), vm.Options{
		Dir: cache, Suite: cmp.Or(os.Getenv("FLEET_VM_SUITE"), "bookworm"), Arch: arch(), Progress: t.Output(),
	})
	s.must(err)
	t.Cleanup(func() {
		if err := s.vms.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("domains of type %s", s.vms.Accelerator)
	for i := range devices(t) {
		m, err := s.vms.Machine(t.Context(), fmt.Sprintf("edge-%d", i+1))
		s.must(err)
		s.devices = append(s.devices, m)
	}
	s.server, err = process.StartServer(t.Context(), process.Config{
		Binary: repo(t, "bin/fleet-server"), DataDir: t.TempDir(), Host: s.vms.Gateway, Command: s.vms.Command,
	})
	s.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("server's log:\n%s", s.server.Log())
		}
		if err := s.server.Stop(); err != nil {
			t.Error(err)
		}
	})
	s.each(s.up)
	// It has done its work, and takes minutes of each boot under emulation.
	s.run("touch /etc/cloud/cloud-init.disabled")
	return s
}

func arch() string { return cmp.Or(os.Getenv("FLEET_VM_ARCH"), runtime.GOARCH) }

// devices is how many there are.
func devices(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv("FLEET_VM_DEVICES"), "2"))
	if err != nil || n < 1 {
		t.Fatal("FLEET_VM_DEVICES is not a number of devices")
	}
	return n
}

func repo(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../..", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: run make test-vm, which builds it", err)
	}
	return path
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// each does something with every device at the same time.
func (s *site) each(do func(*vm.Machine) error) {
	s.t.Helper()
	errs := make([]error, len(s.devices))
	var all sync.WaitGroup
	for i, m := range s.devices {
		all.Go(func() { errs[i] = do(m) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			s.t.Error(err)
		}
	}
	if s.t.Failed() {
		s.t.FailNow()
	}
}

// run is each with a script.
func (s *site) run(script string) {
	s.t.Helper()
	s.each(func(m *vm.Machine) error {
		_, err := m.Run(s.t.Context(), nil, script)
		return err
	})
}

var bootsLock sync.Mutex // guards site.boots

// up waits until a device has booted anew.
func (s *site) up(m *vm.Machine) error {
	bootsLock.Lock()
	before := s.boots[m.Name]
	bootsLock.Unlock()
	boot, err := m.WaitUp(s.t.Context(), before)
	bootsLock.Lock()
	s.boots[m.Name] = boot
	bootsLock.Unlock()
	return err
}

// install does on each device what "token create" says: the agent comes from
// the gateway, by apt.
func (s *site) install() {
	release := repo(s.t, ".cache/vm/dist")
	_, err := s.server.Run(s.t.Context(), "", "bundle", "import", "--release-key", filepath.Join(release, "release.pub"), release)
	s.must(err)
	line, err := s.server.InstallLine(s.t.Context(), "--pre-approve", "--uses", strconv.Itoa(len(s.devices)), "--label", "site=a")
	s.must(err)
	s.installer, _, _ = strings.Cut(line, " | ")
	s.run(line)
	s.run("dpkg-query --show fleet-agent")
	s.ready()
}

// uninstall keeps what a later installation needs; a purge does not.
func (s *site) uninstall() {
	const gone = "! command -v fleet-agent && ! pgrep --uid fleet-agent && ! pgrep --uid fleet-workload && ! systemctl --quiet is-active fleet-agent && "
	s.each(func(m *vm.Machine) error {
		flags, after := "--uninstall", "test -e /var/lib/fleet-agent/identity.json"
		if m == s.devices[0] {
			flags, after = "--purge --yes", "! test -e /var/lib/fleet-agent/identity.json"
		}
		if _, err := m.Run(s.t.Context(), nil, s.installer+" | sh -s -- "+flags); err != nil {
			return err
		}
		_, err := m.Run(s.t.Context(), nil, gone+after)
		return err
	})
}

// ready waits until the server says so of every device.
func (s *site) ready() {
	s.t.Helper()
	s.conditions("Ready")
}

// apply runs a web server of busybox from an image that each device makes.
func (s *site) apply() {
	s.run(`d=$(mktemp -d) && mkdir "$d/bin" "$d/www" && cp /bin/busybox "$d/bin/" && ln -s busybox "$d/bin/sh" && echo hello >"$d/www/index.html"
		tar -C "$d" -cf /run/image.tar . && chmod 644 /run/image.tar
		` + asWorkload + `podman import --quiet --change 'CMD ["/bin/busybox","httpd","-f","-p","8080","-h","/www"]' /run/image.tar localhost/hello:1`)
	_, err := s.server.Apply(s.t.Context(), `{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment,
  metadata: {name: hello, namespace: default},
  spec: {targetSelector: {matchLabels: {site: a}}, score: {type: PodmanV0, data: {services: [
    {name: web, image: 'localhost/hello:1', ports: [{hostPort: 18080, containerPort: 8080}]}]}}}}`)
	s.must(err)
	_, err = s.server.Kubectl(s.t.Context(), "wait", "--for=condition=Available", "--timeout="+waitTimeout.String(), "fleetdep/hello")
	s.must(err)
	s.served()
}

// served waits until every device serves the page.
func (s *site) served() {
	s.t.Helper()
	s.each(func(m *vm.Machine) error {
		return wait.Until(s.t.Context(), waitTimeout, pollInterval, func() error {
			_, err := m.Run(s.t.Context(), nil, `test "$(busybox wget -q -O - http://127.0.0.1:18080/)" = hello`)
			return err
		})
	})
}

type finding struct{ Check, State, Message, Command string }

func (s *site) doctor(m *vm.Machine) ([]finding, error) {
	out, err := m.Run(s.t.Context(), nil, "fleet-agent doctor -o json || true")
	if err != nil {
		return nil, err
	}
	var report struct{ Findings []finding }
	return report.Findings, json.Unmarshal([]byte(out), &report)
}

// expect wants a finding's state and message.
func (s *site) expect(m *vm.Machine, check, state, message string) (finding, error) {
	found, err := s.doctor(m)
	if err != nil {
		return finding{}, err
	}
	for _, f := range found {
		if f.Check == check && f.State == state && strings.Contains(f.Message, message) {
			return f, nil
		}
	}
	return finding{}, fmt.Errorf("%s: no finding %s, %s, %q in %+v", m.Name, check, state, message, found)
}

// healthy: on a kernel of its own a device has nothing to complain about.
func (s *site) healthy() {
	s.each(func(m *vm.Machine) error {
		_, err := m.Run(s.t.Context(), nil, "fleet-agent doctor")
		return err
	})
	s.conditions("SetupComplete", "SubordinateIDsReady", "LingerEnabled", "CgroupDelegated", "LayersShared")
}

// conditions waits until they are True of every device.
func (s *site) conditions(types ...string) {
	s.t.Helper()
	for _, typ := range types {
		_, err := s.server.Kubectl(s.t.Context(), "wait", "--for=condition="+typ, "--timeout="+waitTimeout.String(), "fleetdev", "--all")
		s.must(err)
	}
}

// memoryLimit runs a container that takes all the memory there is.
func (s *site) memoryLimit() {
	_, err := s.server.Apply(s.t.Context(), `{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment,
  metadata: {name: hog, namespace: default},
  spec: {targetSelector: {matchLabels: {site: a}}, score: {type: PodmanV0, data: {services: [
    {name: hog, image: 'localhost/hello:1', command: [/bin/busybox, tail, /dev/zero], restart: Never, resources: {limits: {memory: 32Mi}}}]}}}}`)
	s.must(err)
	s.must(wait.Until(s.t.Context(), waitTimeout, pollInterval, func() error {
		out, err := s.server.Kubectl(s.t.Context(), "get", "fleetdep", "hog", "-o", "jsonpath={.status.aggregate.failed} {.status.aggregate.lastError.message}")
		if err == nil && (!strings.HasPrefix(out, fmt.Sprintf("%d service hog: was killed", len(s.devices))) || !strings.HasSuffix(out, "more memory than its limit or the device has")) {
			err = fmt.Errorf("the status is %q", out)
		}
		return err
	}))
	s.run("grep -q '^oom_kill [1-9]' /proc/vmstat")
	_, err = s.server.Kubectl(s.t.Context(), "delete", "fleetdep", "hog")
	s.must(err)
	s.served()
}

// limits looks from inside of a container at all that bounds it, and at what becomes of programs
// that want more.
func (s *site) limits() {
	_, err := s.server.Apply(s.t.Context(), `{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment,
  metadata: {name: limited, namespace: default},
  spec: {targetSelector: {matchLabels: {site: a}}, score: {type: PodmanV0, data: {services: [
    {name: web, image: 'localhost/hello:1', resources: {limits: {cpu: 500m, memory: 64Mi, swap: 32Mi, pids: 50}, requests: {memory: 16M}}}]}}}}`)
	s.must(err)
	_, err = s.server.Kubectl(s.t.Context(), "wait", "--for=condition=Ready", "--timeout="+waitTimeout.String(), "fleetdep/limited")
	s.must(err)
	s.run(`inside() {
			cd / && runuser -u fleet-workload -- env XDG_RUNTIME_DIR=/run/user/$(id -u fleet-workload) podman exec default_limited_web sh -c "$1"
		}
		limits=$(inside 'cd /sys/fs/cgroup && echo $(cat cpu.max pids.max memory.swap.max memory.low memory.max)')
		test "$limits" = '50000 100000 50 33554432 15998976 67108864' || { echo "the limits are $limits"; exit 1; }
		inside 'for i in $(seq 200); do sleep 5 & done' 2>&1 | grep -q "can.t fork"
		inside 'timeout 5 sh -c "while :; do :; done"; awk "/^nr_throttled/ { exit !\$2 }" /sys/fs/cgroup/cpu.stat'`)
	_, err = s.server.Kubectl(s.t.Context(), "delete", "fleetdep", "limited")
	s.must(err)
	s.served()
}

// agentMemory has a process in the agent's unit take more memory than the unit
// may have. The agent goes with it, comes back, and its containers notice nothing.
// Without the limit, the control, there is memory enough.
func (s *site) agentMemory() {
	const hog = `
		unit=/sys/fs/cgroup/system.slice/fleet-agent.service
		hog() { sh -c "echo \$\$ >$unit/cgroup.procs && exec busybox dd if=/dev/zero of=/dev/null bs=300M count=1" 2>/dev/null; }
		pid=$(systemctl show --property=MainPID --value fleet-agent)
		`
	s.run(hog + `test "$(cat $unit/memory.max)" = 268435456
		systemctl set-property --runtime fleet-agent MemoryMax=infinity
		hog && test "$(systemctl show --property=MainPID --value fleet-agent)" = "$pid"
		rm -r /run/systemd/system.control/fleet-agent.service.d && systemctl daemon-reload
		test "$(cat $unit/memory.max)" = 268435456
		! hog
		for i in $(seq 120); do
			now=$(systemctl show --property=MainPID --value fleet-agent)
			if systemctl --quiet is-active fleet-agent && test "$now" != "$pid"; then exit 0; fi
			sleep 0.5
		done
		systemctl status fleet-agent; exit 1`)
	s.served()
	s.ready()
}

// wrongClock sets the clock of a device two hours ahead.
func (s *site) wrongClock() {
	m := s.devices[0]
	_, err := m.Run(s.t.Context(), nil, `systemctl stop systemd-timesyncd; date --set='2 hours' >/dev/null`)
	s.must(err)
	f, err := s.expect(m, "clock", "warning", "ahead of the server's")
	s.must(err)
	if f.Command != "timedatectl set-ntp true" {
		s.t.Errorf("the command is %q", f.Command)
	}
	_, err = m.Run(s.t.Context(), nil, `date --set='2 hours ago' >/dev/null`)
	s.must(err)
	_, err = s.expect(m, "clock", "ok", "agrees with the server's")
	s.must(err)
}

// reboot goes into a system that delegates less, and lets the command that
// doctor prints fix it from the next boot on.
func (s *site) reboot() {
	s.run(`mkdir -p /etc/systemd/system/user@.service.d
		printf '[Service]\nDelegate=\nDelegate=pids\n' >/etc/systemd/system/user@.service.d/10-less.conf
		systemd-run --quiet systemctl reboot`)
	s.back()
	s.each(func(m *vm.Machine) error {
		f, err := s.expect(m, "cgroup-cpu", "warning", "systemd does not delegate it to fleet-workload")
		if err == nil {
			_, err = m.Run(s.t.Context(), nil, f.Command+" && sync")
		}
		return err
	})
}

func (s *site) powerCut() {
	s.each(func(m *vm.Machine) error { return m.PowerCut(s.t.Context()) })
	s.back()
	s.healthy()
}

// back waits until every device does what it did before it went down.
func (s *site) back() {
	s.t.Helper()
	s.each(s.up)
	s.served()
	s.ready()
}
