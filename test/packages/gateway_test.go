//go:build linux

package packages_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/release/signing"
)

// serve imports a release on the machine, whose server is the gateway. It offers
// one release at a time. What installs servers is large; a gateway does without.
func (m *machine) serve(version string) { m.bundle(version, "") }

// serveOld is serve for a release that is older than the one that is served.
func (m *machine) serveOld(version string) {
	m.t.Helper()
	older := "fleet-server bundle import --release-key " + releaseDir + "/" + version + "/release.pub " + releaseDir + "/" + version
	if out := m.fails("sh", "-c", older); !strings.Contains(out, "--allow-downgrade") {
		m.t.Errorf("it says\n%s", out)
	}
	m.bundle(version, "--allow-downgrade")
}

func (m *machine) bundle(version, flag string) {
	m.t.Helper()
	m.sh(fmt.Sprintf(`
		mkdir /srv/release
		cd %s/%s
		cp $(ls | grep -v ^fleet-server) /srv/release
		fleet-server bundle import %[3]s --release-key release.pub /srv/release
		rm -r /srv/release
		fleet-server bundle show | grep -Fqx %[2]s`, releaseDir, version, flag))
}

// addRepository has a package manager trust the gateway, by the program that
// install.sh downloads for that.
func (m *machine) addRepository(manager string) {
	m.t.Helper()
	m.sh(fmt.Sprintf(`
		hash=$(fleet-server token create 2>/dev/null | cut -d. -f2)
		%s/%s/fleet-agent_*_linux_* add-repository https://%s:8443 --ca-hash "$hash" --manager %s`, releaseDir, oldVersion, m.Address(), manager))
}

const aptSource = "/etc/apt/sources.list.d/fleet-gateway.sources"

// updateFrom fetches the lists of one source, as install.sh does: no mirror is in
// reach.
func updateFrom(source string) []string {
	return []string{"apt-get", "-q", "update", "-o", "Dir::Etc::sourcelist=" + source, "-o", "Dir::Etc::sourceparts=-", "-o", "APT::Update::Error-Mode=any"}
}

// offer serves a release, and has apt know of it.
func (m *machine) offer(version string) {
	m.t.Helper()
	m.serve(version)
	m.run(updateFrom(aptSource)...)
}

// offerOld is offer for a release that is older than the one that is served.
func (m *machine) offerOld(version string) {
	m.t.Helper()
	m.serveOld(version)
	m.run(updateFrom(aptSource)...)
}

// untrustedRepository: that a package's maker is known says nothing of who
// offers it.
func (m *machine) untrustedRepository() {
	m.serve(oldVersion)
	m.addRepository("apt")
	m.sh(fmt.Sprintf(`sed 's|^Signed-By: .*|Signed-By: %s/%s/packages.asc|' %s >/root/untrusted.sources; grep -q packages.asc /root/untrusted.sources`, releaseDir, oldVersion, aptSource))
	if out := m.fails(updateFrom("/root/untrusted.sources")...); !strings.Contains(out, "is not signed") {
		m.t.Errorf("apt says\n%s", out)
	}
	m.fails("apt-get", "--dry-run", "install", "fleet-agent")
	m.run(updateFrom(aptSource)...)
}

// turncoat: whoever has the gateway signs an index with an agent of their own.
// apt would run its scripts as root.
func (m *machine) turncoat() {
	m.sh(`
		mkdir -p /srv/deb/DEBIAN /srv/turncoat
		printf 'Package: fleet-agent\nVersion: 9.0\nArchitecture: all\nMaintainer: nobody\nDescription: a trap\n' >/srv/deb/DEBIAN/control
		printf '#!/bin/sh\ntouch /root/pwned\n' >/srv/deb/DEBIAN/preinst && chmod 755 /srv/deb/DEBIAN/preinst
		dpkg-deb -Zgzip --build /srv/deb /srv/turncoat/fleet-agent_9.0_all.deb
		cd /srv/turncoat && echo 9.0 >version && sha256sum * >checksums.txt
		fleet-server bundle import --allow-unsigned --allow-downgrade /srv/turncoat
		rm -r /srv/deb /srv/turncoat`)
	m.run(updateFrom(aptSource)...)
	if out := m.run("apt-get", "--dry-run", "upgrade"); !strings.Contains(out, "Inst fleet-agent") { // the control
		m.t.Errorf("apt would not take it:\n%s", out)
	}
	if out := m.fails("apt-get", "-y", "-q", "upgrade"); !strings.Contains(out, "not signed by the key of the release") {
		m.t.Errorf("apt says\n%s", out)
	}
	m.sh("! test -e /root/pwned")
	m.installed("fleet-agent", oldVersion)
	m.offerOld(oldVersion)
	m.apt("install", "--reinstall", "fleet-agent") // which its maker signed
}

// liar: the index says that an old agent is a new one, and that the server is an
// agent. The release's key did sign both, and dpkg would install them.
func (m *machine) liar() {
	m.sh(`mkdir /var/lib/fleet-server/release/current/www/apt/lie`)
	for _, program := range []string{"fleet-agent", "fleet-server"} {
		m.sh(fmt.Sprintf(`
			cd /var/lib/fleet-server/release/current/www/apt/lie && cp %s lie.deb
			printf 'Package: fleet-agent\nVersion: 9.0\nArchitecture: all\nMaintainer: nobody\nDescription: a lie\nFilename: ./lie.deb\nSize: %%s\nSHA256: %%s\n' \
				$(stat -c %%s lie.deb) $(sha256sum <lie.deb | cut -d' ' -f1) >Packages
			echo 'deb [trusted=yes] https://%s:8443/packages/apt/lie ./' >/root/lie.list`, deb(program, oldVersion), m.Address()))
		m.run(updateFrom("/root/lie.list")...)
		upgrade := append([]string{"apt-get", "-y", "-q", "upgrade"}, "-o", "Dir::Etc::sourcelist=/root/lie.list", "-o", "Dir::Etc::sourceparts=-")
		if out := m.fails(upgrade...); !strings.Contains(out, "is not what its name says") {
			m.t.Errorf("apt says\n%s", out)
		}
		m.installed("fleet-agent", newVersion)
	}
	// One that says the truth of the version, and has apt remove what it likes.
	m.sh(fmt.Sprintf(`
		cd /var/lib/fleet-server/release/current/www/apt/lie && cp %s lie.deb
		{ dpkg-deb --field lie.deb | sed '/^Conflicts:/d; /^Description:/i Conflicts: busybox-static'; echo 'Filename: ./lie.deb'; echo "Size: $(stat -c %%s lie.deb)"; echo "SHA256: $(sha256sum <lie.deb | cut -d' ' -f1)"; } >Packages
		cp /root/lie.list /etc/apt/sources.list.d/lie.list`, deb("fleet-agent", newVersion)))
	m.run(updateFrom("/etc/apt/sources.list.d/lie.list")...)
	reinstall := []string{"-y", "-q", "install", "--reinstall", "fleet-agent"}
	if out := m.run(append([]string{"apt-get", "--dry-run"}, reinstall...)...); !strings.Contains(out, "Remv busybox-static") { // the control
		m.t.Errorf("apt would not remove it:\n%s", out)
	}
	if out := m.fails(append([]string{"apt-get"}, reinstall...)...); !strings.Contains(out, "its index says conflicts") {
		m.t.Errorf("apt says\n%s", out)
	}
	m.run("dpkg-query", "--show", "busybox-static")
	m.sh(`rm -r /var/lib/fleet-server/release/current/www/apt/lie /root/lie.list /etc/apt/sources.list.d/lie.list; apt-get clean`)
	m.run(updateFrom(aptSource)...)
}

// liarIndex: the gateway says of the right package, in its place, that it makes
// another obsolete. dnf would remove that with the next upgrade.
func (m *machine) liarIndex() {
	const repodata = "/var/lib/fleet-server/release/current/www/rpm/*/repodata"
	m.sh(`cp -r ` + repodata + ` /root/truth
		cd ` + repodata + ` && primary=$(ls *-primary.xml.gz)
		sum() { sha256sum | cut -d' ' -f1; }
		lie=$(zcat $primary | sed 's|</rpm:requires>|&<rpm:obsoletes><rpm:entry name="debian-victim"/></rpm:obsoletes>|' | gzip -n | tee lie.gz | sum)
		mv lie.gz $lie-primary.xml.gz && zcat $lie-primary.xml.gz | grep -q debian-victim
		sed -i "s|$(echo $primary | cut -d- -f1)|$lie|; s|$(zcat $primary | sum)|$(zcat $lie-primary.xml.gz | sum)|; s|<size>$(stat -c %s $primary)<|<size>$(stat -c %s $lie-primary.xml.gz)<|; s|<open-size>$(zcat $primary | wc -c)<|<open-size>$(zcat $lie-primary.xml.gz | wc -c)<|" repomd.xml`)
	for name, signature := range map[string]string{
		"the maker's of the truth": m.sh("cat /root/truth/repomd.xml.asc"), "the gateway's": m.gatewaySignature(m.sh("cat " + repodata + "/repomd.xml")), "none": "",
	} {
		m.sh("cd " + repodata + " && if [ -z '" + signature + "' ]; then rm repomd.xml.asc; else echo '" + signature + "' >repomd.xml.asc; fi")
		if out := m.run(append(dnfCommand, "--refresh", "upgrade")...); !strings.Contains(out, "Ignoring repositories: fleet-gateway") {
			m.t.Errorf("with the signature %q dnf says\n%s", name, out)
		}
		m.run("rpm", "--query", "debian-victim", "fleet-agent-"+oldVersion)
	}
	// The control: without the maker's signature dnf would do it.
	control := append(slices.Clone(dnfCommand), "--setopt=fleet-gateway.repo_gpgcheck=0", "--refresh", "--assumeno", "upgrade")
	if out := m.fails(control...); !strings.Contains(out, "replacing  debian-victim") {
		m.t.Errorf("dnf would not remove it:\n%s", out)
	}
	m.sh("cd " + repodata + " && rm * && cp /root/truth/* . && rm -r /root/truth")
}

// gatewaySignature is what whoever has the gateway can sign.
func (m *machine) gatewaySignature(text string) string {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "key.asc")
	if err := os.WriteFile(path, []byte(m.sh("cat /var/lib/fleet-server/release/signing-key.asc")), 0o600); err != nil {
		m.t.Fatal(err)
	}
	key, err := signing.Load(path, time.Now())
	if err != nil {
		m.t.Fatal(err)
	}
	signature, err := key.Detached([]byte(text))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(signature)
}

// liarRPM is liar for dnf, with the agent.
func (m *machine) liarRPM() {
	m.sh(fmt.Sprintf(`
			mkdir -p /root/lie/repodata && cd /root/lie && cp %s lie.rpm
			sha() { sha256sum <$1 | cut -d' ' -f1; }
			cat >primary.xml <<END
<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="1"><package type="rpm"><name>fleet-agent</name>
<arch>noarch</arch><version epoch="0" ver="9.0" rel="1"/><checksum type="sha256" pkgid="YES">$(sha lie.rpm)</checksum><summary/><description/><packager/><url/>
<time file="1" build="1"/><size package="$(stat -c %%s lie.rpm)" installed="1" archive="1"/><location href="lie.rpm"/><format><rpm:license/><rpm:vendor/><rpm:group/>
<rpm:buildhost/><rpm:sourcerpm/><rpm:header-range start="0" end="0"/><rpm:provides><rpm:entry name="fleet-agent" flags="EQ" epoch="0" ver="9.0" rel="1"/></rpm:provides>
</format></package></metadata>
END
			cat >repodata/repomd.xml <<END
<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision><data type="primary"><checksum type="sha256">$(sha primary.xml)</checksum>
<location href="primary.xml"/><timestamp>1</timestamp><size>$(stat -c %%s primary.xml)</size></data></repomd>
END`, rpm("fleet-agent", oldVersion)))
	upgrade := append(slices.Clone(dnfCommand), "--repofrompath=lie,file:///root/lie", "--repo=lie", "--setopt=lie.gpgcheck=1",
		"--setopt=lie.gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-fleet-gateway", "--refresh", "upgrade", "fleet-agent")
	if out := m.fails(upgrade...); !strings.Contains(out, "is older than "+newVersion) {
		m.t.Errorf("dnf says\n%s", out)
	}
	m.run("rpm", "--query", "fleet-agent-"+newVersion)
	m.active("fleet-agent")
	m.sh("rm -r /root/lie")
}
