//go:build linux

package lab_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/test/lab"
)

const setupUser = "/usr/libexec/fleet-agent/setup-user"

// resetAccounts takes a machine back to before the first setup-user.
const resetAccounts = `
	set -eu
	if id fleet-workload >/dev/null 2>&1; then
		loginctl disable-linger fleet-workload
		systemctl stop "user@$(id -u fleet-workload).service" "user-runtime-dir@$(id -u fleet-workload).service"
		userdel fleet-workload
	fi
	while grep -q '^overlay /var/lib/fleet-workload ' /proc/mounts; do umount --lazy /var/lib/fleet-workload; done
	rm -rf /var/lib/fleet-workload/.[!.]* /var/lib/fleet-workload/* /var/lib/systemd/linger/*
	sed -i '/^SUB_/d; /^subid:/d' /etc/login.defs /etc/nsswitch.conf
	rm -f /run/systemd/system/probe.service
	: >/etc/subuid
	: >/etc/subgid`

// Checks that several cases share.
const (
	oneRange = `
		test "$(grep -c . /etc/subuid)" = 1 && test "$(grep -c . /etc/subgid)" = 1 &&
		grep -q ':65536$' /etc/subuid && grep -q ':65536$' /etc/subgid && ! grep -q fleet-subid /etc/passwd`
	noAccountLeft = `! grep -q fleet-subid /etc/passwd /etc/group /etc/subuid /etc/subgid`
)

// overlayHome puts the home on an overlay, on which the kernel allows no other.
const overlayHome = `
	mkdir -p /srv/home
	mount -t tmpfs tmpfs /srv/home
	mkdir /srv/home/lower /srv/home/upper /srv/home/work
	mount -t overlay overlay -o lowerdir=/srv/home/lower,upperdir=/srv/home/upper,workdir=/srv/home/work /var/lib/fleet-workload
	umount --lazy /srv/home`

// setupCases run setup-user in a machine where prepare has run. An empty fail
// means that it has to succeed, and to say nothing but warn; otherwise its one
// line has to contain fail.
var setupCases = []struct {
	name    string
	prepare string
	// properties confine the run, as systemd-run takes them.
	properties []string
	fail, warn string
	check      string
}{
	{
		name:  "first run",
		check: oneRange + ` && test -S ` + lab.PodmanSocket,
	},
	{
		name:    "account without ids, as sysusers.d makes it",
		prepare: `useradd --system --home-dir /var/lib/fleet-workload fleet-workload`,
		check:   oneRange,
	},
	{
		name: "ranges of others are not touched",
		prepare: `echo other:100000:65536 | tee /etc/subuid >/etc/subgid
			useradd --system --home-dir /var/lib/fleet-workload fleet-workload`,
		check: `grep -q '^fleet-workload:165536:65536$' /etc/subuid && grep -q '^other:100000:65536$' /etc/subuid`,
	},
	{
		name: "a range by numeric uid is enough",
		prepare: `useradd --system --home-dir /var/lib/fleet-workload fleet-workload
			echo "$(id -u fleet-workload):500000:65536" | tee /etc/subuid >/etc/subgid`,
		check: oneRange,
	},
	{
		name:    "one of two ranges is missing",
		prepare: `useradd --system --home-dir /var/lib/fleet-workload fleet-workload; echo fleet-workload:500000:65536 >/etc/subuid`,
		check:   oneRange,
	},
	{
		name: "podman was used before there were ids",
		prepare: `useradd --system --home-dir /var/lib/fleet-workload fleet-workload
			install -d -o fleet-workload -g fleet-workload /var/lib/fleet-workload/.local/share/containers
			chown -R fleet-workload:fleet-workload /var/lib/fleet-workload`,
		check: oneRange,
	},
	{
		name:    "files for subordinate ids are missing",
		prepare: `rm /etc/subuid /etc/subgid`,
		check:   oneRange,
	},
	{
		name:    "an interrupted run left its account",
		prepare: `useradd --no-create-home fleet-subid-reserve; useradd --system --home-dir /var/lib/fleet-workload fleet-workload`,
		check:   oneRange,
	},
	{
		name:    "no ids per account",
		prepare: `printf 'SUB_UID_COUNT 0\nSUB_GID_COUNT 0\n' >>/etc/login.defs`,
		fail:    "set SUB_UID_COUNT and SUB_GID_COUNT to 65536 in /etc/login.defs",
		check:   noAccountLeft,
	},
	{
		name:    "no free range",
		prepare: `printf 'SUB_UID_MAX 100010\nSUB_GID_MAX 100010\n' >>/etc/login.defs`,
		fail:    "free a range in /etc/subuid and /etc/subgid",
		check:   noAccountLeft,
	},
	{
		name:    "ids come from a directory service",
		prepare: `echo 'subid: sss' >>/etc/nsswitch.conf`,
		fail:    "allocate 65536 uids and gids there",
		check:   `! test -s /etc/subuid`,
	},
	{
		name:       "read-only /etc",
		properties: []string{"ReadOnlyPaths=/etc"},
		fail:       "/etc is read-only",
		check:      `! id fleet-workload`,
	},
	{
		name:  "layers are shared",
		check: `su -s /bin/sh fleet-workload -c 'cd; XDG_RUNTIME_DIR=/run/user/$(id -u) podman info --format {{.Store.GraphDriverName}}' | grep -qx overlay`,
	},
	{
		name:    "layers are shared where the home is an overlay",
		prepare: overlayHome,
		check:   `grep -q mount_program /var/lib/fleet-workload/.config/containers/storage.conf`,
	},
	{
		name:       "nothing shares layers",
		prepare:    overlayHome,
		properties: []string{"InaccessiblePaths=/usr/bin/fuse-overlayfs"},
		warn:       "install the package fuse-overlayfs",
		check:      `! test -e /var/lib/fleet-workload/.config/containers/storage.conf`,
	},
	{
		name:       "podman is missing",
		properties: []string{"InaccessiblePaths=/usr/bin/podman"},
		fail:       "install the package podman",
		check:      oneRange,
	},
	{
		name:       "no systemd, as in a chroot",
		properties: []string{"TemporaryFileSystem=/run"},
		check:      oneRange + ` && test -e /var/lib/systemd/linger/fleet-workload && test -e /var/lib/fleet-workload/.config/containers/containers.conf.d/50-fleet.conf`,
	},
	{
		name: "a planted link is not followed",
		prepare: `useradd --system --home-dir /var/lib/fleet-workload fleet-workload
			ln -s /etc /var/lib/fleet-workload/.config; chown -h fleet-workload:fleet-workload /var/lib/fleet-workload /var/lib/fleet-workload/.config`,
		fail:  "Permission denied",
		check: `! test -e /etc/systemd/user/podman.socket.d && ! test -e /etc/containers/containers.conf.d/50-fleet.conf`,
	},
}

func TestSetupUser(t *testing.T) {
	t.Parallel()
	l := open(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := boot(t, l, lab.Config{Name: "setup-" + suite, Suite: suite})
			if err := m.InstallAgent(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			for _, tt := range setupCases {
				t.Run(tt.name, func(t *testing.T) {
					must(t, m, "sh", "-c", resetAccounts)
					must(t, m, "sh", "-ec", "true; "+tt.prepare)
					r := confined(t, m, tt.properties, setupUser)
					checkOutcome(t, r, tt.fail, tt.warn)
					must(t, m, "sh", "-c", tt.check)
				})
			}
		})
	}
}

// checkOutcome compares how setup-user ended with what its case expects.
func checkOutcome(t *testing.T, r lab.Result, fail, warn string) {
	t.Helper()
	switch {
	case fail == "" && r.ExitCode != 0:
		t.Fatalf("exit status %d: %s", r.ExitCode, r.Stderr)
	case fail != "" && r.ExitCode == 0:
		t.Fatalf("succeeded, want a failure with %q", fail)
	case fail == "" && warn == "" && r.Stderr != "":
		t.Errorf("unexpected warning: %s", r.Stderr)
	case !strings.Contains(r.Stderr, fail) || !strings.Contains(r.Stderr, warn):
		t.Errorf("standard error %q lacks %q or %q", r.Stderr, fail, warn)
	}
}

// confined runs a command in a unit with properties such as ReadOnlyPaths=.
func confined(t *testing.T, m *lab.Machine, properties []string, args ...string) lab.Result {
	t.Helper()
	unit := []string{"systemd-run", "--quiet", "--wait", "--pipe", "--collect"}
	for _, p := range properties {
		unit = append(unit, "--property="+p)
	}
	r, err := m.Run(t.Context(), append(unit, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestSetupUserIsIdempotent also proves that a second run restarts nothing.
func TestSetupUserIsIdempotent(t *testing.T) {
	t.Parallel()
	l := open(t)
	const state = `
		stat --format='%n %i %Y' /etc/passwd /etc/group /etc/subuid /etc/subgid
		find /var/lib/fleet-workload/.config -type f -exec stat --format='%n %i %Y' {} +
		stat --format='%n %i %A %U %G' ` + lab.PodmanSocket
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := boot(t, l, lab.Config{Name: "again-" + suite, Suite: suite})
			if err := m.InstallAgent(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			before := must(t, m, "sh", "-c", state)
			// Together, as an upgrade and a restart of the unit may come together.
			must(t, m, "sh", "-c", `for i in 1 2 3 4; do "$1" & pids="$pids $!"; done; for p in $pids; do wait "$p" || exit 1; done`, "sh", setupUser)
			if diff := cmp.Diff(before, must(t, m, "sh", "-c", state)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
