//go:build linux

package packages_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/test/lab"
)

// TestDebs follows a gateway that is a device of its own from the first
// installation of both packages to their purge. The agent comes from the
// gateway's repository.
func TestDebs(t *testing.T) {
	t.Parallel()
	l := packed(t)
	for _, suite := range []string{lab.Trixie, lab.Bookworm} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := boot(t, l, "debs", suite)
			m.story([]step{
				{"install the server", (*machine).installServer},
				{"a repository that somebody else signed is refused", (*machine).untrustedRepository},
				{"install the agent where it cannot be set up", (*machine).installWithoutIDs},
				{"enroll: the service sets up what was missing", (*machine).enroll},
				{"units are hardened", (*machine).hardened},
				{"a container runs", (*machine).container},
				{"a container that breaks out finds no key", (*machine).breakOut},
				{"a gateway that turns on its devices is no root there", (*machine).turncoat},
				{"reboot", (*machine).reboot},
				{"upgrade, downgrade, reinstall, restart leave containers alone", (*machine).upgrades},
				{"who disabled a service keeps it disabled", (*machine).disabled},
				{"the power fails in the middle of an upgrade", (*machine).powerCut},
				{"remove stops containers and keeps data", (*machine).remove},
				{"install again: all is back", (*machine).installAgain},
				{"purge keeps volumes with data", (*machine).purge},
				{"volumes are taken up again", (*machine).volumesAreBack},
				{"purge of everything", (*machine).purgeAll},
				{"remove the server and install it again", (*machine).removeServer},
				{"purge the server", (*machine).purgeServer},
			})
		})
	}
}

func (m *machine) installServer() {
	m.apt("install", deb("fleet-server", oldVersion))
	m.active("fleet-server")
	m.run("fleet-server", "kubectl", "get", "--raw", "/readyz")
}

const shortOfIDs = `SUB_UID_COUNT 0
SUB_GID_COUNT 0
`

// installWithoutIDs: a package that is half configured would block apt.
func (m *machine) installWithoutIDs() {
	m.sh("printf '" + strings.ReplaceAll(shortOfIDs, "\n", `\n`) + "' >>/etc/login.defs")
	out := m.apt("install", "fleet-agent")
	for _, want := range []string{"set SUB_UID_COUNT and SUB_GID_COUNT to 65536", "tries again whenever it starts"} {
		if !strings.Contains(out, want) {
			m.t.Errorf("apt says %q, lacks %q", out, want)
		}
	}
	m.installed("fleet-agent", oldVersion)
	m.run("systemctl", "is-enabled", "fleet-agent")
	m.sh("sed -i '/^SUB_[UG]ID_COUNT 0/d' /etc/login.defs")
}

func (m *machine) enroll() {
	token := m.sh("fleet-server token create --pre-approve --label site=a 2>/dev/null") // the rest of what it says is for people
	if err := m.EnrollAgent(m.t.Context(), "https://127.0.0.1:8443", token, "edge-1"); err != nil {
		m.t.Fatal(err)
	}
	m.ready()
	m.sh(`test "$(grep -c '^fleet-workload:[0-9]*:65536$' /etc/subuid)" = 1`)
}

func (m *machine) hardened() {
	for _, unit := range []string{"fleet-agent.service", "fleet-server.service"} {
		// The threshold is ten times the exposure level that is printed.
		m.run("systemd-analyze", "security", "--no-pager", "--threshold=20", unit)
		got := m.run("systemctl", "show", "--property=Type,Restart,CapabilityBoundingSet,WatchdogUSec", unit)
		if strings.Contains(got, "WatchdogUSec=0") || strings.Contains(got, "WatchdogUSec=infinity") ||
			!strings.Contains(got, "Type=notify") || !strings.Contains(got, "Restart=always") || !strings.Contains(got, "CapabilityBoundingSet=\n") {
			m.t.Errorf("%s: %s", unit, got)
		}
	}
}

const (
	port      = 18080
	container = "default_hello_web"
)

func (m *machine) container() {
	if err := m.LoadImage(m.t.Context(), lab.HelloImage); err != nil {
		m.t.Fatal(err)
	}
	manifest := fmt.Sprintf(`{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment, metadata: {name: hello},
  spec: {targetSelector: {matchLabels: {site: a}}, score: {type: PodmanV0, data: {services: [
    {name: web, image: %q, ports: [{hostPort: %d, containerPort: %d}]}]}}}}`, lab.HelloImage, port, lab.HelloPort)
	if err := m.WriteFile(m.t.Context(), "/root/hello.yaml", strings.NewReader(manifest), 0o644); err != nil {
		m.t.Fatal(err)
	}
	m.run("fleet-server", "kubectl", "apply", "-f", "/root/hello.yaml")
	m.answers()
}

// breakOut does as the user that a container is what it could do to the agent.
func (m *machine) breakOut() {
	pid := m.pid("fleet-agent")
	for _, attempt := range []string{
		"cat /var/lib/fleet-agent/identity.json", "ls /var/lib/fleet-agent",
		"cat /proc/" + pid + "/environ", "cat /proc/" + pid + "/mem", "ls /proc/" + pid + "/fd", "kill -9 " + pid,
		"cat /proc/" + pid + "/root/var/lib/fleet-agent/identity.json", "cat /var/lib/fleet-server/pki/root.key",
		"touch /run/fleet-workload/x /usr/bin/fleet-agent", "touch /etc/fleet-agent/agent.yaml",
	} {
		r, err := m.RunAs(m.t.Context(), lab.WorkloadUser, "sh", "-c", attempt)
		if err != nil {
			m.t.Fatal(err)
		}
		if r.ExitCode == 0 {
			m.t.Errorf("%s: %s", attempt, r.Stdout)
		}
	}
	// The control: what root sees there is the key.
	if !strings.Contains(m.run("cat", "/var/lib/fleet-agent/identity.json"), "PRIVATE KEY") {
		m.t.Error("the identity is elsewhere: this test looks in the wrong place")
	}
}

func (m *machine) reboot() {
	if err := m.Reboot(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	m.answers()
	m.ready()
}

// upgrades: a container's first process is the same before and after.
func (m *machine) upgrades() {
	m.sh("echo '# mine' >>/etc/default/fleet-agent")
	before, agent := m.containerID(), m.pid("fleet-agent")
	for _, change := range []struct {
		name string
		run  func()
		want string
	}{
		{"upgrade", func() { m.offer(newVersion); m.apt("upgrade") }, newVersion},
		{"downgrade", func() {
			m.liar()
			m.offerOld(oldVersion)
			m.apt("install", "--allow-downgrades", "fleet-agent="+oldVersion)
		}, oldVersion},
		{"reinstall", func() { m.apt("install", "--reinstall", "fleet-agent") }, oldVersion},
		{"restart", func() { m.run("systemctl", "restart", "fleet-agent") }, oldVersion},
	} {
		change.run()
		m.installed("fleet-agent", change.want)
		m.active("fleet-agent")
		if now := m.pid("fleet-agent"); now == agent {
			m.t.Errorf("%s did not restart the agent", change.name)
		} else {
			agent = now
		}
		if after := m.containerID(); after != before {
			m.t.Errorf("%s: the container was %s, is %s", change.name, before, after)
		}
	}
	m.run("grep", "-q", "# mine", "/etc/default/fleet-agent")
	// What that does is tried in virtual machines: here the controller is another's.
	if got := m.run("systemctl", "show", "--property=MemoryMax", "--value", "fleet-agent"); got != "268435456\n" {
		m.t.Errorf("the agent may take %s bytes", got)
	}
	m.apt("install", deb("fleet-server", newVersion))
	m.active("fleet-server")
	m.ready()
}

func (m *machine) disabled() {
	m.run("systemctl", "disable", "--now", "fleet-agent")
	m.apt("install", "--reinstall", "fleet-agent")
	for _, query := range []string{"is-enabled", "is-active"} {
		if r, err := m.Run(m.t.Context(), "systemctl", query, "fleet-agent"); err != nil || r.ExitCode == 0 {
			m.t.Errorf("%s: %s %v", query, r.Stdout, err)
		}
	}
	m.run("systemctl", "enable", "--now", "fleet-agent")
	m.ready()
}

// powerCut: dpkg goes on where it was, as it is told to do after a power cut.
func (m *machine) powerCut() {
	m.run("dpkg", "--unpack", deb("fleet-agent", newVersion), deb("fleet-server", newVersion))
	if err := errors.Join(m.PowerCut(m.t.Context()), m.Start(m.t.Context())); err != nil {
		m.t.Fatal(err)
	}
	m.answers() // with what was unpacked
	m.run("dpkg", "--configure", "-a")
	m.installed("fleet-agent", newVersion)
	m.installed("fleet-server", newVersion)
	m.ready()
}

func (m *machine) remove() {
	m.as(lab.WorkloadUser, "podman", "volume", "create", "empty")
	m.as(lab.WorkloadUser, "podman", "volume", "create", "full")
	m.as(lab.WorkloadUser, "podman", "run", "--rm", "--user", "1000", "--volume", "full:/data", lab.HelloImage, "sh", "-c", "echo kept >/data/file")
	m.apt("remove", "fleet-agent")
	m.nothingRuns()
	m.sh(`test ! -e /var/lib/systemd/linger/fleet-workload`)
	for _, kept := range []string{"/var/lib/fleet-agent/identity.json", "/etc/fleet-agent/agent.yaml", "/etc/default/fleet-agent", volume + "/file"} {
		m.run("test", "-e", kept)
	}
	m.run("systemctl", "is-active", "fleet-server")
}

const volume = "/var/lib/fleet-workload/.local/share/containers/storage/volumes/full/_data"

func (m *machine) installAgain() {
	m.offer(newVersion)
	m.apt("install", "fleet-agent")
	m.installed("fleet-agent", newVersion)
	m.answers()
	m.ready()
}

// purge meets an edited file and two mount points.
func (m *machine) purge() {
	m.sh(`cd /var/lib/fleet-workload; mkdir disk 'spare [1]'; mount -t tmpfs tmpfs disk; mount -t tmpfs tmpfs 'spare [1]'; echo precious >disk/file`)
	const edited = "/etc/apt/apt.conf.d/50fleet-gateway"
	m.sh("echo '# mine' >>" + edited)
	ranges := m.run("cat", "/etc/passwd", "/etc/subuid", "/etc/subgid")
	out := m.apt("purge", "fleet-agent")
	for _, want := range []string{
		"kept 1 volumes with data", "rm -r --one-file-system /var/lib/fleet-workload",
		"kept /var/lib/fleet-workload/disk with all that is in it: it is a mount point", "kept /var/lib/fleet-workload/spare??1? with all",
		"kept " + edited + ", which was edited",
	} {
		if !strings.Contains(out, want) {
			m.t.Errorf("it doesn't say %q:\n%s", want, out)
		}
	}
	m.nothingRuns()
	m.sh(`cd /var/lib/fleet-workload; grep -q precious disk/file; umount disk spare*; rmdir disk spare*`)
	if got := m.sh(`find /var/lib/fleet-workload -type f -o -type d -name overlay -o -type l; ls -A /var/lib/fleet-agent`); got != volume+"/file\n" {
		m.t.Errorf("left over: %s", got)
	}
	if got := m.sh(leftOfAgent); got != edited+"\n" {
		m.t.Errorf("left over: %s", got)
	}
	m.run("rm", edited)
	if got := m.run("cat", "/etc/passwd", "/etc/subuid", "/etc/subgid"); got != ranges {
		m.t.Errorf("accounts and ranges changed: were\n%s\nare\n%s", ranges, got)
	}
}

// leftOfAgent lists what of the agent, its package and add-repository is there,
// but for the homes.
const leftOfAgent = `find /etc /usr -name '*fleet-agent*' -o -name '*fleet-gateway*'; find /var/lib -maxdepth 1 -name fleet-install`

func (m *machine) volumesAreBack() {
	m.fails("apt-get", "--dry-run", "install", "fleet-agent")
	m.addRepository("apt")
	m.run(updateFrom(aptSource)...)
	m.apt("install", "fleet-agent")
	if err := m.LoadImage(m.t.Context(), lab.HelloImage); err != nil {
		m.t.Fatal(err)
	}
	m.as(lab.WorkloadUser, "podman", "volume", "create", "full")
	if got := m.as(lab.WorkloadUser, "podman", "run", "--rm", "--user", "1000", "--volume", "full:/data", lab.HelloImage, "sh", "-c", "echo again >>/data/file; cat /data/file"); got != "kept\nagain\n" {
		m.t.Errorf("the volume has %q", got)
	}
}

// purgeAll also meets links that the workload left: what they point to stays.
func (m *machine) purgeAll() {
	m.sh(`mkdir -p /srv/other && echo precious >/srv/other/file`)
	m.as(lab.WorkloadUser, "sh", "-c", `ln -s /srv/other ~/link; mv ~/.config ~/.config.old; ln -s /srv/other ~/.config`)
	m.run("env", "FLEET_PURGE_VOLUMES=yes", "apt-get", "-y", "-q", "purge", "fleet-agent")
	if got := m.sh(`ls -A /var/lib/fleet-workload; cat /srv/other/file; ` + leftOfAgent); got != "precious\n" {
		m.t.Errorf("left over: %s", got)
	}
}

func (m *machine) removeServer() {
	m.run("systemctl", "stop", "fleet-server")
	if got := m.run("systemctl", "show", "--property=Result", "fleet-server"); got != "Result=success\n" {
		m.t.Errorf("after stop: %s", got)
	}
	m.apt("remove", "fleet-server")
	m.run("test", "-e", "/var/lib/fleet-server/state.db")
	m.apt("install", deb("fleet-server", oldVersion))
	if got := m.run("fleet-server", "kubectl", "get", "fleetdep", "-o", "name"); !strings.Contains(got, "/hello") {
		m.t.Errorf("Deployments after a removal: %q", got)
	}
}

// purgeServer: no key stays, not in the backup of an upgrade either, but for what
// an administrator placed elsewhere, and for mount points.
func (m *machine) purgeServer() {
	m.run("fleet-server", "upgrade", "--package", deb("fleet-server", newVersion))
	m.run("systemctl", "stop", "fleet-server")
	m.run("cp", "-a", "/var/lib/fleet-server", "/srv/fleet")
	m.run("fleet-server", "install", "--no-start", "--data-dir", "/srv/fleet")
	m.sh(`test -e /var/lib/fleet-install/fleet-server/data/pki/root.key
		grep -q /srv/fleet ` + dropIn + `
		cd /var/lib/fleet-server; mkdir disk; mount -t tmpfs tmpfs disk; echo precious >disk/file`)
	out := m.apt("purge", "fleet-server")
	for _, want := range []string{
		"kept /var/lib/fleet-server/disk with all that is in it: it is a mount point",
		"kept objects, authorities and keys in /srv/fleet; to remove them: rm -r --one-file-system /srv/fleet",
	} {
		if !strings.Contains(out, want) {
			m.t.Errorf("it doesn't say %q:\n%s", want, out)
		}
	}
	m.sh(`cd /var/lib; grep -q precious fleet-server/disk/file; umount fleet-server/disk; rmdir fleet-server/disk fleet-server; test -e /srv/fleet/pki/root.key`)
	if got := m.sh(`find /etc /usr -name '*fleet-server*'; find /var/lib -maxdepth 1 -name fleet-install`); got != "" {
		m.t.Errorf("left over:\n%s", got)
	}
	m.run("id", "fleet-server")
}

// installed: dpkg has nothing left to do for the package.
func (m *machine) installed(program, version string) {
	m.t.Helper()
	if got := m.run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", program); got != "installed "+version {
		m.t.Errorf("%s is %s", program, got)
	}
	if got := m.run("dpkg", "--audit"); got != "" {
		m.t.Error(got)
	}
}

func (m *machine) active(unit string) {
	m.t.Helper()
	m.eventually(unit+" is active", func() error {
		r, err := m.Run(m.t.Context(), "systemctl", "is-active", unit)
		if err == nil && r.ExitCode != 0 {
			err = fmt.Errorf("it is %s", r.Stdout)
		}
		return err
	})
}

func (m *machine) ready() {
	m.t.Helper()
	m.eventually("the device is ready", func() error {
		_, err := m.Output(m.t.Context(), "fleet-server", "kubectl", "wait", "--for=condition=Ready", "--timeout=1s", "fleetdev/edge-1")
		return err
	})
}

func (m *machine) answers() {
	m.t.Helper()
	m.eventually("the container answers", func() error {
		r, err := m.web.Get(fmt.Sprintf("http://%s:%d/", m.Address(), port))
		if err != nil {
			return err
		}
		defer r.Body.Close()
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		if err == nil && !strings.Contains(string(body), "Hello") {
			err = fmt.Errorf("it answers %q", body)
		}
		return err
	})
}

func (m *machine) pid(unit string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("systemctl", "show", "--property=MainPID", "--value", unit))
}

// containerID is what changes when a container is started anew.
func (m *machine) containerID() string {
	m.t.Helper()
	return m.as(lab.WorkloadUser, "podman", "inspect", "--type", "container", "--format", "{{.Id}} {{.State.Pid}} {{.State.StartedAt}}", container)
}

// nothingRuns: no process has the number of the workload account, or one of
// those that its containers have.
func (m *machine) nothingRuns() {
	m.t.Helper()
	const script = `
		first=$(sed -n 's/^fleet-workload:\([0-9]*\):.*/\1/p' /etc/subuid)
		stat -c '%u %n' /proc/[0-9]* 2>/dev/null | while read -r uid process; do
			if [ "$uid" = "$(id -u fleet-workload)" ] || { [ "$uid" -ge "$first" ] && [ "$uid" -lt $((first + 65536)) ]; }; then
				{ tr '\0' ' ' <"$process/cmdline" && echo; } 2>/dev/null || true
			fi
		done`
	m.eventually("nothing of the workload runs", func() error {
		if left := m.sh(script); left != "" {
			return errors.New(left)
		}
		return nil
	})
}
