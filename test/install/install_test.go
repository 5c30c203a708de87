//go:build linux

package install_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/process"
)

// TestInstall goes through the life of a gateway and a device on one machine,
// with packages and without.
func TestInstall(t *testing.T) {
	t.Parallel()
	r := makeReleases(t, first, second, broken)
	for _, tt := range []struct{ suite, packages, program string }{
		{lab.Bookworm, "apt", "/usr/bin/fleet-server"},
		{lab.Trixie, "none", "/usr/local/bin/fleet-server"},
	} {
		t.Run(tt.packages, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, tt.suite, r)
			h.sh(0, "mkdir -p /run/systemd/system/fleet-server.service.d")
			if err := h.WriteFile(t.Context(), "/run/systemd/system/fleet-server.service.d/test.conf",
				strings.NewReader(fmt.Sprintf(brokenUnit, tt.program)), 0o644); err != nil {
				t.Fatal(err)
			}
			h.sh(0, `sed -n "/^RELEASE_KEY='/,/'$/p" /release/one/install.sh | sed "s/^RELEASE_KEY='//; s/'$//" >/var/lib/release.pub`)
			packages := " --packages " + tt.packages
			h.interrupted(packages)
			h.settings(packages)
			h.upgrades(packages, r)
			if tt.packages == "apt" { // which is the longer way back
				h.wayBack(packages, r)
			}
			h.device(tt.packages)
			h.removal(packages, tt.program)
			h.elsewhere(packages)
		})
	}
}

// interrupted kills install.sh with all that it started, earlier and later, and
// runs it again.
func (h *host) interrupted(packages string) {
	h.Helper()
	if strings.Contains(packages, "apt") { // the wrong moments for dpkg
		h.sh(0, "touch /var/lib/dpkg/updates/0001")
		h.sh(0, "setsid sh /release/one/install.sh --bundle /release/one.tar --role server"+packages+` &
			until test -e /usr/bin/fleet-server.dpkg-new; do kill -0 $!; sleep 0.01; done
			kill -KILL -$!`)
		h.says(h.sh(0, "dpkg-query --show --showformat '${Status}' fleet-server"), "half-installed")
		h.sh(0, "cp /release/one/fleet-server_*_linux_* /usr/bin/fleet-server") // a moment later
		h.install(0, first, "--role server"+packages)
		h.install(0, first, "--role server --purge --yes"+packages)
	}
	for _, after := range []string{"0.1", "0.4", "1", "2"} {
		h.sh(0, "timeout --signal=KILL "+after+" sh /release/one/install.sh --bundle /release/one.tar --role server"+packages+" || true")
	}
	h.install(0, first, "--role server --tls-san gw.example"+packages)
	h.says(h.sh(0, "fleet-server kubectl get namespaces"), "kube-system")
	h.says(h.sh(0, "systemctl is-enabled fleet-server"), "enabled")
}

func (h *host) settings(packages string) {
	h.Helper()
	// A second run changes nothing.
	files, process := h.sh(0, written), h.sh(0, pid)
	h.install(0, first, "--role server --tls-san gw.example"+packages)
	h.install(0, first, "--role server"+packages)
	h.same(files, written)
	h.same(process, pid)
	// Other flags are shown and applied.
	listen := fmt.Sprintf("--role server --listen %s --tls-san gw.example,other.example", h.Address())
	h.says(h.install(0, first, listen+" --dry-run"+packages), "tlsSANs: [gw.example, other.example]")
	h.same(files, written)
	h.says(h.install(0, first, listen+packages), "change  /etc/fleet-server/config.yaml: apiListen: "+h.Address().String())
	h.sh(0, "curl --silent --fail --insecure https://"+h.Address().String()+":8443/v1/ca")
	h.sh(7, "curl --silent --fail --insecure https://127.0.0.1:8443/v1/ca")
	// An edited file stays.
	h.sh(0, "echo '# mine' >>/etc/fleet-server/config.yaml")
	config := h.sh(0, "cat /etc/fleet-server/config.yaml")
	h.says(h.install(10, first, "--role server --tls-san third.example"+packages), "KEEP    /etc/fleet-server/config.yaml")
	h.same(config, "cat /etc/fleet-server/config.yaml")
}

func (h *host) upgrades(packages string, r *releases) {
	h.Helper()
	identity := h.sh(0, root)
	h.sh(0, "fleet-server kubectl create namespace of-one")
	h.install(0, second, "--role server"+packages)
	h.says(h.sh(0, "fleet-server version"), r.version("2"))
	h.says(h.sh(0, "fleet-server kubectl get namespaces"), "of-one")
	h.same(identity, root)
	// An older release is refused by the script and by the programs.
	h.says(h.install(12, first, "--role server"+packages), "--allow-downgrade")
	h.says(h.sh(1, "fleet-server bundle import --release-key /var/lib/release.pub /release/one"), "--allow-downgrade")
	if strings.Contains(packages, "apt") {
		h.says(h.sh(12, "fleet-server upgrade --package /release/one/fleet-server_*.deb"), "--allow-downgrade")
	}
	h.says(h.sh(0, "fleet-server version && fleet-server bundle show"), r.version("2")+"\n")
}

// wayBack upgrades to a version that does not become ready, which takes a minute.
func (h *host) wayBack(packages string, r *releases) {
	h.Helper()
	identity := h.sh(0, root)
	h.says(h.install(11, broken, "--role server"+packages), "is back")
	h.says(h.sh(0, "cat /var/lib/fleet-server/revoked-keys.jsonl"), revokedKey)
	h.says(h.sh(0, "fleet-server version"), r.version("2"))
	h.says(h.sh(0, "fleet-server kubectl get namespaces"), "of-one")
	h.same(identity, root)
}

// device installs the agent from the gateway beside it with the line that "token
// create" prints, and removes it again.
func (h *host) device(packages string) {
	h.Helper()
	h.sh(0, "echo "+h.Address().String()+" gw.example >>/etc/hosts")
	line := func() string {
		line, err := process.InstallLine(h.sh(0, "fleet-server token create --pre-approve"))
		if err != nil {
			h.Fatal(err)
		}
		return "export FLEET_PACKAGES=" + packages + "\n" + line
	}
	// Killed earlier and later, with all that it started: the same line goes on.
	if err := h.WriteFile(h.Context(), "/run/line", strings.NewReader(line()), 0o600); err != nil {
		h.Fatal(err)
	}
	for _, after := range []string{"0.2", "0.6", "1.5", "3"} {
		h.sh(0, "timeout --signal=KILL "+after+" sh /run/line || true")
	}
	h.sh(0, "sh /run/line")
	h.eventually("the agent is connected", func() error {
		if out, err := h.Output(h.Context(), "fleet-agent", "status"); err != nil || !regexp.MustCompile(`Connected: +yes`).MatchString(out) {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	h.sh(0, "fleet-agent doctor | grep -q '^ok *setup '") // wherever setup-user is
	agent := "systemctl show --property=MainPID fleet-agent"
	process := h.sh(0, agent)
	h.sh(0, line())
	h.same(process, agent)
	if packages == "apt" {
		h.says(h.sh(0, "apt-cache policy fleet-agent"), "https://gw.example:8443/packages/apt stable/main")
	}
	flags := " --packages " + packages
	h.install(0, second, "--role agent --uninstall"+flags)
	h.sh(0, "test -e /var/lib/fleet-agent/identity.json && ! command -v fleet-agent && ! ls /etc/apt/*/*fleet*")
	if packages == "none" { // nobody knows any more what was written
		h.says(h.install(15, second, "--role agent --purge --yes"+flags), "install it again to purge /var/lib/fleet-agent")
	}
	h.install(0, second, "--role agent"+flags) // without a token, since the device has an identity
	h.says(h.sh(0, "systemctl is-active fleet-agent"), "active")
	if packages == "apt" { // a purge is possible afterwards, too
		h.install(0, second, "--role agent --uninstall"+flags)
	}
	h.install(0, second, "--role agent --purge --yes"+flags)
	h.sh(0, "! test -e /var/lib/fleet-agent/identity.json && ! test -e /var/lib/fleet-workload/.local && id fleet-workload")
	h.says(h.sh(2, "setsid sh /release/two/install.sh --bundle /release/two.tar --role agent --server https://gw.example:8443"+flags), "no enrollment token")
}

func (h *host) removal(packages, program string) {
	h.Helper()
	identity := h.sh(0, root)
	h.install(0, second, "--role server --uninstall"+packages)
	h.sh(0, "! test -e "+program+" && ! systemctl is-active fleet-server")
	h.install(0, second, "--role server"+packages)
	h.says(h.sh(0, "fleet-server kubectl get namespaces"), "of-one")
	h.same(identity, root)
	// Another disk in the data directory, and a purge.
	h.sh(0, "mkdir /var/lib/fleet-server/disk && mount -t tmpfs tmpfs /var/lib/fleet-server/disk && touch /var/lib/fleet-server/disk/mine")
	h.says(h.install(15, second, "--role server --purge"+packages+" </dev/null"), "--yes")
	h.install(0, second, "--role server --purge --yes"+packages)
	h.sh(0, "test -e /var/lib/fleet-server/disk/mine && umount /var/lib/fleet-server/disk && rmdir /var/lib/fleet-server/disk")
	h.sh(0, "! test -e /var/lib/fleet-server/state.db && ! test -e "+program)
	h.install(0, second, "--role server --uninstall"+packages)
	left := h.sh(0, "find /etc /usr /var/lib -xdev -path '*fleet*' ! -path '*/fleet-agent*' ! -path '*/fleet-workload*' ! -path '/var/lib/systemd/*' -type f")
	if left != "" && left != "/etc/fleet-server/config.yaml\n" {
		h.Errorf("a purge leaves:\n%s", left)
	}
}

// elsewhere has the data in another directory, which the hardened unit may write
// to.
func (h *host) elsewhere(packages string) {
	h.Helper()
	h.sh(0, "rm -rf /etc/fleet-server /var/lib/fleet-server")
	h.install(0, second, "--role server --data-dir /srv/fleet"+packages)
	h.says(h.sh(0, "fleet-server kubectl get namespaces"), "kube-system")
	h.sh(0, "test -e /srv/fleet/state.db && ! test -e /var/lib/fleet-server/state.db")
	h.says(h.install(12, second, "--role server --data-dir /srv/other"+packages), "move the data to /srv/other")
	h.install(0, second, "--role server --purge --yes"+packages)
	h.sh(0, "! test -e /srv/fleet")
}
