//go:build linux

package packages_test

import (
	"path/filepath"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/process"
)

// stub is an rpm that has the names of what Debian has installed already, so
// that real transactions of rpm and dnf run with real systemd, podman and
// shadow below them.
const stub = `
	mkdir -p /root/stub
	cat >/root/stub/debian.spec <<'END'
Name: debian
Version: 1
Release: 1
Summary: What Debian has installed
License: none
BuildArch: noarch
Provides: podman = 5, passt, crun, bash, coreutils, ca-certificates, fuse-overlayfs, findutils, gawk, shadow-utils, systemd, util-linux, /bin/sh
%description
What Debian has installed.
%files
%package victim
Summary: What somebody would have removed
%description victim
What somebody would have removed.
%files victim
END
	rpmbuild --quiet -bb --define '_rpmdir /root/stub' /root/stub/debian.spec
	rpm --install /root/stub/noarch/debian-1-1.noarch.rpm /root/stub/noarch/debian-victim-1-1.noarch.rpm`

// TestRPMs follows both packages as dnf installs and removes them, the agent
// from the gateway's repository.
func TestRPMs(t *testing.T) {
	t.Parallel()
	l := packed(t)
	m := boot(t, l, "rpms", lab.Trixie)
	m.sh(stub)
	m.story([]step{
		{"a package that nobody signed is refused", (*machine).untrustedRPM},
		{"install the server", (*machine).installServerRPM},
		{"install the agent", (*machine).installAgentRPM},
		{"enroll", (*machine).enroll},
		{"a container runs", (*machine).container},
		{"upgrade and downgrade leave containers alone", (*machine).upgradeRPMs},
		{"remove stops containers and keeps data", (*machine).removeRPM},
		{"install again: all is back", (*machine).installRPMAgain},
		{"purge", (*machine).purgeRPM},
		{"the server goes", (*machine).removeServerRPM},
	})
}

// dnf runs dnf so that it checks signatures of files, too.
func (m *machine) dnf(args ...string) string {
	m.t.Helper()
	return m.run(append(dnfCommand, args...)...)
}

var dnfCommand = []string{"dnf", "--assumeyes", "--setopt=localpkg_gpgcheck=1", "--setopt=install_weak_deps=0"}

func rpm(program, version string) string {
	return filepath.Join(releaseDir, version, filepath.Base(rpmFile(program, version)))
}

func (m *machine) untrustedRPM() {
	agent := rpm("fleet-agent", oldVersion)
	if out := m.fails(append(dnfCommand, "install", agent)...); !strings.Contains(out, "not installed") && !strings.Contains(out, "not signed") && !strings.Contains(out, "GPG") {
		m.t.Errorf("before the key is known, dnf says\n%s", out)
	}
	m.run("rpm", "--import", filepath.Join(releaseDir, oldVersion, "packages.asc"))
	// One byte in the middle of the payload.
	m.sh(`cp ` + agent + ` /root/tampered.rpm; printf X | dd of=/root/tampered.rpm bs=1 seek=$(($(stat -c %s ` + agent + `) / 2)) conv=notrunc status=none`)
	if out := m.fails(append(dnfCommand, "install", "/root/tampered.rpm")...); strings.Contains(out, "Complete!") {
		m.t.Errorf("dnf says\n%s", out)
	}
	m.fails("rpm", "--query", "fleet-agent")
}

func (m *machine) installServerRPM() {
	m.dnf("install", rpm("fleet-server", oldVersion))
	m.run("rpm", "--verify", "fleet-server")
	m.run("systemctl", "is-enabled", "fleet-server")
	m.run("systemctl", "start", "fleet-server")
	m.serve(oldVersion)
}

// installAgentRPM: the key of packages comes with the repository, and no other:
// dnf would believe the gateway's for packages, too.
func (m *machine) installAgentRPM() {
	m.run("rpm", "--erase", "--allmatches", "gpg-pubkey")
	m.addRepository("dnf")
	m.sh("test $(grep -cx -e gpgcheck=1 -e repo_gpgcheck=1 -e includepkgs=fleet-agent /etc/yum.repos.d/fleet-gateway.repo) = 3")
	m.run("cmp", "/etc/pki/rpm-gpg/RPM-GPG-KEY-fleet-gateway", filepath.Join(releaseDir, oldVersion, "packages.asc"))
	if out := m.dnf("install", "fleet-agent"); strings.Contains(out, "the set-up is not complete") {
		m.t.Errorf("dnf says\n%s", out)
	}
	m.installedRPM(oldVersion)
	if got := m.run("rpm", "--query", "gpg-pubkey", "--queryformat", "%{SUMMARY}\n"); strings.Contains(got, "gateway") {
		m.t.Errorf("rpm believes\n%s", got)
	}
	m.run("rpm", "--verify", "fleet-agent")
	m.run("systemctl", "is-enabled", "fleet-agent")
	m.run("test", "-S", lab.PodmanSocket)
}

// installedRPM: the agent has this version, and came from the gateway.
func (m *machine) installedRPM(version string) {
	m.t.Helper()
	if got := m.run("dnf", "--quiet", "--cacheonly", "repository-packages", "fleet-gateway", "list", "--installed"); !strings.Contains(got, " "+version+"-1 ") {
		m.t.Errorf("installed from the gateway is\n%s", got)
	}
}

func (m *machine) upgradeRPMs() {
	m.sh("echo '# mine' >>/etc/default/fleet-agent")
	before, agent := m.containerID(), m.pid("fleet-agent")
	for _, change := range []struct{ name, version string }{{"upgrade", newVersion}, {"downgrade", oldVersion}, {"reinstall", oldVersion}} {
		switch change.name {
		case "upgrade":
			m.serve(change.version)
			m.liarIndex()
		case "downgrade":
			m.liarRPM()
			m.serveOld(change.version)
			if out := m.fails(append(dnfCommand, "--refresh", "downgrade", "fleet-agent")...); !strings.Contains(out, "FLEET_ALLOW_DOWNGRADE=1") {
				m.t.Errorf("dnf says\n%s", out)
			}
		}
		m.run(append([]string{"env", "FLEET_ALLOW_DOWNGRADE=1"}, append(dnfCommand, "--refresh", change.name, "fleet-agent")...)...)
		m.installedRPM(change.version)
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
	m.dnf("upgrade", rpm("fleet-server", newVersion))
	m.active("fleet-server")
	m.ready()
}

func (m *machine) removeRPM() {
	m.as(lab.WorkloadUser, "podman", "volume", "create", "full")
	m.as(lab.WorkloadUser, "podman", "run", "--rm", "--volume", "full:/data", lab.HelloImage, "sh", "-c", "echo kept >/data/file")
	m.dnf("remove", "fleet-agent")
	m.nothingRuns()
	m.run("test", "-e", "/var/lib/fleet-agent/identity.json", "-a", "-e", volume+"/file", "-a", "!", "-e", "/etc/systemd/system/multi-user.target.wants/fleet-agent.service")
}

func (m *machine) installRPMAgain() {
	m.serve(newVersion)
	m.dnf("--refresh", "install", "fleet-agent")
	m.installedRPM(newVersion)
	m.run("systemctl", "start", "fleet-agent")
	m.answers()
	m.ready()
}

// purgeRPM: rpm knows no purge, so the program does it before the removal.
func (m *machine) purgeRPM() {
	m.run("fleet-agent", "uninstall", "--purge")
	m.dnf("remove", "fleet-agent")
	if got := m.sh(`find /var/lib/fleet-workload -type f; ls -A /var/lib/fleet-agent; ` + leftOfAgent); got != volume+"/file\n/etc/default/fleet-agent.rpmsave\n" {
		m.t.Errorf("left over:\n%s", got)
	}
}

func (m *machine) removeServerRPM() {
	m.dnf("remove", "fleet-server")
	m.sh("test -e /var/lib/fleet-server/state.db -a ! -e /usr/share/doc/fleet-server")
	if r, err := m.Run(m.t.Context(), "systemctl", "is-active", "fleet-server"); err != nil || r.ExitCode == 0 {
		m.t.Errorf("the server is %s: %v", r.Stdout, err)
	}
	// A gateway whose index calls it the agent would have it back.
	m.sh("mkdir -p /etc/yum.repos.d; touch /etc/yum.repos.d/fleet-gateway.repo")
	if out := m.fails(append(dnfCommand, "install", rpm("fleet-server", oldVersion))...); !strings.Contains(out, "this host is a device") {
		m.t.Errorf("dnf says\n%s", out)
	}
	m.fails("rpm", "--query", "fleet-server")
}

// TestInstallScriptByDNF is install.sh with real dnf: the server from the files
// of a release, the agent from the server's signed repository. Package
// test/install has what is the same for all package managers.
func TestInstallScriptByDNF(t *testing.T) {
	t.Parallel()
	l := packed(t)
	m := boot(t, l, "dnf", lab.Trixie)
	m.sh(stub)
	installer := filepath.Join(releaseDir, oldVersion, "install.sh")
	m.sh("echo " + m.Address().String() + " gw.example >>/etc/hosts")
	server := "sh " + installer + " --packages dnf --role server --tls-san gw.example"
	m.sh(server)
	m.active("fleet-server")
	m.sh("rpm --query fleet-server && fleet-server bundle show | grep -qx " + oldVersion)
	if out := m.sh(server); strings.Contains(out, "create  ") || strings.Contains(out, "change  ") {
		t.Errorf("the second time it says\n%s", out)
	}
	line, err := process.InstallLine(m.run("fleet-server", "token", "create", "--pre-approve"))
	if err != nil {
		t.Fatal(err)
	}
	m.sh("export FLEET_PACKAGES=dnf\n" + line)
	m.active("fleet-agent")
	m.run("fleet-server", "kubectl", "wait", "--for=condition=Ready", "--timeout="+waitTimeout.String(), "fleetdev", "--all")
	m.run("rpm", "--verify", "fleet-agent")
	m.sh("dnf --quiet repository-packages fleet-gateway list --installed | grep -q '^fleet-agent'")
	m.sh("sh " + installer + " --packages dnf --role agent --purge --yes")
	m.sh("! rpm --query fleet-agent && ! test -e /var/lib/fleet-agent/identity.json -o -e /etc/yum.repos.d/fleet-gateway.repo")
	m.sh("sh " + installer + " --packages dnf --role server --purge --yes")
	m.sh("! rpm --query fleet-server && ! test -e /var/lib/fleet-server/state.db")
}
