//go:build linux

package packages_test

import (
	"fmt"
	"path/filepath"
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
	mount --bind ` + releaseDir + ` ` + chroot + releaseDir + `
`

const unmountChroot = `umount ` + chroot + releaseDir + ` ` + chroot + `/dev ` + chroot + ` /srv/changes`

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
	m.sh("cd " + chroot + "/var/lib; mkdir -p fleet-agent fleet-server; touch fleet-agent/identity.json fleet-server/state.db")
	m.purgeBesideStatic(enter)
	install("", newVersion)
	m.sh("cd " + chroot + "/var/lib; test -e fleet-agent/identity.json -a -e fleet-server/state.db")
	unmount := func() {}
	if enter == enterings["container"] { // without /proc nobody knows what is mounted
		unmount = m.sameFileSystem()
	}
	m.sh("cd " + chroot + edits)
	out := apt("purge fleet-agent fleet-server")
	unmount()
	for _, kept := range []string{dropIn + ", which was edited", keyring + ", which was edited", "/etc/fleet-server, which is a link"} {
		if !strings.Contains(out, ": kept "+kept+"\n") {
			m.t.Errorf("it does not say that it kept %s:\n%s", kept, out)
		}
	}
	m.sh("cd " + chroot + "; grep -q mine srv/file; rm ." + dropIn + " ." + keyring + " etc/fleet-server; rmdir ." + filepath.Dir(dropIn))
	if got := m.sh("cd " + chroot + "; find etc usr var -name '*fleet*' ! -path 'var/log/*' ! -path 'var/lib/dpkg/*' ! -path 'var/lib/fleet-*'; find var/lib -path 'var/lib/fleet-*/*'"); got != "" {
		m.t.Errorf("left over:\n%s", got)
	}
	m.run("grep", "-q", "^fleet-workload:", chroot+"/etc/subuid", chroot+"/etc/passwd")
}

const (
	dropIn  = "/etc/systemd/system/fleet-server.service.d/50-data-dir.conf"
	keyring = "/etc/apt/keyrings/fleet-gateway.asc"
)

// edits are what a purge finds that is not as an installation wrote it.
const edits = `
	mkdir -p etc/systemd/system/fleet-server.service.d
	echo mine | tee .` + dropIn + ` >srv/file
	ln -s /srv/file .` + keyring + `
	ln -s /srv etc/fleet-server`

// purgeBesideStatic purges removed packages after an installation without one,
// which has the same data.
func (m *machine) purgeBesideStatic(enter string) {
	m.t.Helper()
	for _, program := range []string{"fleet-agent", "fleet-server"} {
		static := chroot + "/usr/local/bin/" + program
		m.run("touch", static)
		if out := m.sh(enter + " /var/lib/dpkg/info/" + program + ".postrm purge"); !strings.Contains(out, "kept everything") {
			m.t.Errorf("the purge of %s does not say what stays:\n%s", program, out)
		}
		m.run("rm", static)
	}
}

// sameFileSystem mounts directories of the same file system below those that a
// purge empties. The function that it returns checks that they are as before.
func (m *machine) sameFileSystem() func() {
	points := chroot + "/var/lib/fleet-server/mine " + chroot + "/var/lib/fleet-workload/mine"
	m.sh("cd " + chroot + "; mkdir -p srv/mine " + points + "; echo precious >srv/mine/file; for p in " + points + `; do mount --bind srv/mine $p; done`)
	return func() {
		m.t.Helper()
		m.sh("umount " + points + "; rmdir " + points + "; grep -q precious " + chroot + "/srv/mine/file")
	}
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
