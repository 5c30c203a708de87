//go:build linux

package packages_test

import (
	"fmt"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/test/lab"
)

// chroot is a root in which no systemd runs: the machine's own, without what is
// mounted into it, and with changes that nobody else sees.
const chroot = "/srv/chroot"

const mountChroot = `
	mkdir -p /srv/changes ` + chroot + `
	mount -t tmpfs tmpfs /srv/changes
	mkdir /srv/changes/upper /srv/changes/work
	mount -t overlay overlay -o lowerdir=/,upperdir=/srv/changes/upper,workdir=/srv/changes/work ` + chroot + `
	mount --bind /dev ` + chroot + `/dev
	cp /root/*.deb ` + chroot + `/root/`

const unmountChroot = `umount ` + chroot + `/dev ` + chroot + ` /srv/changes`

// enterings are the ways in which packages are installed without systemd: the
// build of a disk image, often without /proc, and a container.
var enterings = map[string]string{
	"chroot":    "chroot " + chroot,
	"container": "unshare --mount --pid --ipc --uts --fork --mount-proc=" + chroot + "/proc chroot " + chroot,
}

func TestDebsWithoutSystemd(t *testing.T) {
	t.Parallel()
	l := packed(t)
	for _, suite := range []string{lab.Trixie, lab.Bookworm} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := boot(t, l, "chroot", suite)
			for _, program := range []string{"fleet-agent", "fleet-server"} {
				m.copyIn(debFile(program, oldVersion), debFile(program, newVersion))
			}
			for name, enter := range enterings {
				m.in(t, name, "", func(m *machine) { m.lifeWithoutSystemd(enter) })
			}
			for _, c := range brokenHosts {
				m.in(t, c.name, c.breakIt, func(m *machine) {
					out := m.sh(enterings["chroot"] + " apt-get -y -q install " + deb("fleet-agent", oldVersion))
					if !strings.Contains(out, c.want) {
						m.t.Errorf("apt says\n%s\nwhich lacks %q", out, c.want)
					}
					m.allInstalled(enterings["chroot"], oldVersion, "fleet-agent")
				})
			}
		})
	}
}

// brokenHosts cannot be set up: the package is installed all the same, and says
// what to do.
var brokenHosts = []struct{ name, breakIt, want string }{
	{"no ids per account", `printf 'SUB_UID_COUNT 0\nSUB_GID_COUNT 0\n' >>etc/login.defs`, "set SUB_UID_COUNT and SUB_GID_COUNT"},
	{"no useradd", `rm usr/sbin/useradd`, "useradd is missing: install the packages passwd"},
	{"a full range", `printf 'SUB_UID_MAX 100010\nSUB_GID_MAX 100010\n' >>etc/login.defs`, "free a range in /etc/subuid"},
	{"a directory service without ids", `echo 'subid: sss' >>etc/nsswitch.conf`, "allocate 65536 uids and gids there"},
}

// in runs a step in a chroot of its own that a script has changed.
func (m *machine) in(t *testing.T, name, change string, run func(*machine)) {
	t.Run(name, func(t *testing.T) {
		whole := m.t
		m.t = t
		defer func() { m.t = whole }()
		m.sh(mountChroot)
		defer m.sh(unmountChroot)
		m.sh("cd " + chroot + "; " + change)
		run(m)
	})
}

func (m *machine) lifeWithoutSystemd(enter string) {
	apt := func(args string) string { return m.sh(enter + " apt-get -y -q --no-install-recommends " + args) }
	install := func(options, version string) {
		apt(fmt.Sprintf("install %s %s %s", options, deb("fleet-agent", version), deb("fleet-server", version)))
		m.allInstalled(enter, version, "fleet-agent", "fleet-server")
	}
	install("", oldVersion)
	const wants = chroot + "/etc/systemd/system/multi-user.target.wants/"
	m.run("test", "-L", wants+"fleet-agent.service", "-a", "-L", wants+"fleet-server.service")
	m.run("grep", "-q", "^fleet-workload:.*:65536$", chroot+"/etc/subuid", chroot+"/etc/subgid")
	m.run("test", "-e", chroot+"/var/lib/systemd/linger/fleet-workload")
	install("", newVersion)
	install("--allow-downgrades", oldVersion)
	apt("remove fleet-agent fleet-server")
	m.sh("mkdir -p " + chroot + "/var/lib/fleet-agent && touch " + chroot + "/var/lib/fleet-agent/identity.json")
	install("", newVersion)
	m.run("test", "-e", chroot+"/var/lib/fleet-agent/identity.json")
	apt("purge fleet-agent fleet-server")
	if got := m.sh("cd " + chroot + "; find etc usr var -name '*fleet*' ! -path 'var/log/*' ! -path 'var/lib/dpkg/*' ! -path 'var/lib/fleet-*'; find var/lib -path 'var/lib/fleet-*/*'"); got != "" {
		m.t.Errorf("left over:\n%s", got)
	}
	m.run("grep", "-q", "^fleet-workload:", chroot+"/etc/subuid", chroot+"/etc/passwd")
}

func (m *machine) allInstalled(enter, version string, programs ...string) {
	m.t.Helper()
	for _, p := range programs {
		if got := m.sh(enter + " dpkg-query -W -f '${db:Status-Status} ${Version}' " + p); got != "installed "+version {
			m.t.Errorf("%s is %s", p, got)
		}
	}
	if got := m.sh(enter + " dpkg --audit"); got != "" {
		m.t.Error(got)
	}
}
