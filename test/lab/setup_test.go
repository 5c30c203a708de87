//go:build linux

package lab_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/test/lab"
)

const setupUser = "/usr/libexec/fleet-agent/setup-user"

// resetAccounts takes a machine back to before the first setup-user.
const resetAccounts = `
	set -eu
	sed -i '/^SUB_/d; /^subid:/d' /etc/login.defs /etc/nsswitch.conf
	if id fleet-workload >/dev/null 2>&1; then
		loginctl disable-linger fleet-workload
		systemctl stop "user@$(id -u fleet-workload).service" "user-runtime-dir@$(id -u fleet-workload).service"
		userdel fleet-workload
	fi
	while grep -q '^overlay /var/lib/fleet-workload ' /proc/mounts; do umount --lazy /var/lib/fleet-workload; done
	rm -rf /var/lib/fleet-workload/.[!.]* /var/lib/fleet-workload/* /var/lib/systemd/linger/*
	rm -f /run/systemd/system/probe.service
	for i in 0 1 2 3 4 5 6 7 8 9; do if id other$i >/dev/null 2>&1; then userdel other$i; fi; done
	rm -f /run/failed
	: >/etc/subuid
	: >/etc/subgid`

// Checks that several cases share.
const (
	oneRange = `
		test "$(grep -c . /etc/subuid)" = 1 && test "$(grep -c . /etc/subgid)" = 1 &&
		grep -q ':65536$' /etc/subuid && grep -q ':65536$' /etc/subgid && ! grep -q fleet-subid /etc/passwd`
	noAccountLeft = `! grep -q fleet-subid /etc/passwd /etc/group /etc/subuid /etc/subgid`
)

// tenAtOnce runs setup-user ten times beside ten accounts of others, each of
// which shadow gives a range. Those who make these try again, as shadow's lock
// may be taken.
const tenAtOnce = `
	for i in 0 1 2 3 4 5 6 7 8 9; do
		( ` + setupUser + ` || touch /run/failed ) & pids="$pids $!"
		( for try in 1 2 3 4 5; do useradd --no-create-home other$i 2>/dev/null && exit; done; touch /run/failed ) & pids="$pids $!"
	done
	wait $pids
	! test -e /run/failed`

// noOverlap: no range begins before the one below it ends, and each account has one.
const noOverlap = `
	for file in /etc/subuid /etc/subgid; do
		test "$(grep -c . $file)" = 11 || exit 1
		sort -t: -k2n $file | awk -F: '$2 + 0 < end { exit 1 } { end = $2 + $3 }' || exit 1
		test "$(grep -c '^fleet-workload:' $file)" = 1 || exit 1
	done
	` + noAccountLeft

// foreignSource is a source of subordinate ids for libsubid, as sssd has one.
const foreignSource = `
#include <stdbool.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>
struct range { unsigned long start, count; };
int shadow_subid_has_range(const char *owner, unsigned long start, unsigned long count, int type, bool *result) {
	*result = start >= 524288 && start + count <= 524288 + 65536;
	return 0;
}
int shadow_subid_find_subid_owners(unsigned long id, int type, uid_t **uids, int *count) { *count = 0; return 0; }
int shadow_subid_list_owner_ranges(const char *owner, int type, struct range **ranges, int *count) {
	*ranges = malloc(sizeof **ranges);
	(*ranges)->start = 524288;
	(*ranges)->count = access("/run/fleettest-few", F_OK) == 0 ? 1000 : 65536;
	*count = 1;
	return 0;
}
void shadow_subid_free(void *p) { free(p); }
`

// installForeignSource makes "subid: fleettest" in nsswitch.conf possible.
func installForeignSource(t *testing.T, m *lab.Machine) {
	t.Helper()
	library := filepath.Join(t.TempDir(), "libsubid_fleettest.so")
	gcc := exec.CommandContext(t.Context(), "gcc", "-shared", "-fPIC", "-o", library, "-xc", "-")
	gcc.Stdin = strings.NewReader(foreignSource)
	if out, err := gcc.CombinedOutput(); err != nil {
		t.Fatalf("compiling: %v: %s", err, out)
	}
	if err := m.CopyIn(t.Context(), library, "/usr/lib/libsubid_fleettest.so", 0o644); err != nil {
		t.Fatal(err)
	}
}

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
		name: "a range that is too small gets another beside it",
		prepare: `useradd --system --home-dir /var/lib/fleet-workload fleet-workload
			echo fleet-workload:300000:1000 | tee /etc/subuid >/etc/subgid`,
		check: `grep -q '^fleet-workload:[0-9]*:65536$' /etc/subuid && grep -q '^fleet-workload:[0-9]*:65536$' /etc/subgid &&
			grep -q '^fleet-workload:300000:1000$' /etc/subuid && ` + noAccountLeft,
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
		name:    "an interrupted run left the group of its account",
		prepare: `groupadd fleet-subid-reserve; useradd --system --home-dir /var/lib/fleet-workload fleet-workload`,
		check:   oneRange + ` && ` + noAccountLeft,
	},
	{
		name: "useradd was interrupted after the accounts",
		prepare: setupUser + `
			sed -i '/^fleet-agent:/d; /^fleet-workload:/d' /etc/group /etc/gshadow /etc/shadow
			systemctl stop user@$(id -u fleet-workload).service`,
		check: `test "$(id -gn fleet-agent) $(id -gn fleet-workload)" = 'fleet-agent fleet-workload' &&
			getent shadow fleet-agent fleet-workload && test -S ` + lab.PodmanSocket,
	},
	{
		name:    "useradd was interrupted before the account",
		prepare: `groupadd --system fleet-workload`,
		check:   `test "$(id -gn fleet-workload)" = fleet-workload && ` + oneRange,
	},
	{
		name: "the id of the group is somebody else's by now",
		prepare: setupUser + `
			groupmod --new-name taken fleet-workload`,
		fail:  "groupadd could not create the group fleet-workload",
		check: `groupmod --new-name fleet-workload taken`,
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
		name:    "ids come from a directory service that has them",
		prepare: `echo 'subid: fleettest' >>/etc/nsswitch.conf`,
		check:   `! test -s /etc/subuid && getsubids fleet-workload | grep -q ' 524288 65536$'`,
	},
	{
		name:    "ids come from a directory service that has too few",
		prepare: `echo 'subid: fleettest' >>/etc/nsswitch.conf; touch /run/fleettest-few`,
		fail:    "no subordinate ids for fleet-workload in 'fleettest'",
		check:   `rm /run/fleettest-few; ! test -s /etc/subuid`,
	},
	{
		name:       "read-only /etc with everything in place",
		prepare:    setupUser,
		properties: []string{"ReadOnlyPaths=/etc"},
		check:      oneRange,
	},
	{
		name:       "useradd is missing",
		properties: []string{"InaccessiblePaths=/usr/sbin/useradd"},
		fail:       "useradd is missing: install the packages passwd",
		check:      noAccountLeft,
	},
	{
		name:    "ten at once, and accounts of others between",
		prepare: tenAtOnce,
		check:   noOverlap,
	},
	{
		name:    "ten at once that have to reserve a range, and accounts of others between",
		prepare: `useradd --system --home-dir /var/lib/fleet-workload fleet-workload` + tenAtOnce,
		check:   noOverlap,
	},
	{
		name:  "the workload cannot hold the lock",
		check: `! setpriv --reuid fleet-workload --clear-groups flock --nonblock /run/fleet-agent-setup.lock true && flock --nonblock /run/fleet-agent-setup.lock true`,
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
		check: `! test -e /etc/systemd/user/podman.socket.d && ! test -e /etc/containers/containers.conf.d/50-fleet.conf && grep -q 'fleet-workload failed at units: .*Permission denied' /run/fleet-agent-setup.status`,
	},
	{
		name: "pipes and endless files are in the way",
		prepare: setupUser + `
			cd /var/lib/fleet-workload/.config
			for dir in systemd/user/podman.socket.d containers/containers.conf.d; do
				rm $dir/50-fleet.conf; mkfifo $dir/50-fleet.conf $dir/50-fleet.conf.new
			done
			rm containers/storage.conf; truncate --size=7T containers/storage.conf
			chown --recursive fleet-workload:fleet-workload .`,
		check: `cd /var/lib/fleet-workload/.config && grep -q SocketMode=0660 systemd/user/podman.socket.d/50-fleet.conf &&
			grep -q log_size_max containers/containers.conf.d/50-fleet.conf && test -S ` + lab.PodmanSocket,
	},
	{
		name: "an endless file instead of a configuration",
		prepare: setupUser + `
			truncate --size=7T /var/lib/fleet-workload/.config/systemd/user/podman.socket.d/50-fleet.conf`,
		check: `grep -q SocketMode=0660 /var/lib/fleet-workload/.config/systemd/user/podman.socket.d/50-fleet.conf`,
	},
	{
		name: "a pipe instead of a directory",
		prepare: `useradd --system --home-dir /var/lib/fleet-workload fleet-workload
			mkfifo /var/lib/fleet-workload/.config; chown fleet-workload:fleet-workload /var/lib/fleet-workload /var/lib/fleet-workload/.config`,
		fail:  "fleet-workload failed at units",
		check: `grep -q 'see /var/lib/fleet-workload' /run/fleet-agent-setup.status`,
	},
	{
		name: "the account's systemd never answers",
		prepare: setupUser + `
			cd /var/lib/fleet-workload/.config/systemd/user
			printf '[Socket]\nExecStartPre=sleep infinity\nTimeoutSec=infinity\n' >podman.socket.d/99-planted.conf
			echo >podman.socket.d/50-fleet.conf`,
		fail:  "fleet-workload did not end sockets in 40 s",
		check: `systemctl kill --signal=KILL user-$(id -u fleet-workload).slice; rm /var/lib/fleet-workload/.config/systemd/user/podman.socket.d/99-planted.conf`,
	},
	{
		name: "the account's systemd never gets ready",
		prepare: setupUser + `
			systemctl stop user@$(id -u fleet-workload).service
			cd /var/lib/fleet-workload/.config/systemd/user
			printf '[Socket]\nExecStartPre=sleep infinity\nTimeoutSec=infinity\n' >podman.socket.d/99-planted.conf`,
		fail:  "systemd did not start for fleet-workload",
		check: `systemctl kill --signal=KILL user-$(id -u fleet-workload).slice; rm /var/lib/fleet-workload/.config/systemd/user/podman.socket.d/99-planted.conf`,
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
			installForeignSource(t, m)
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

// TestPodmanTakesUpNewConfiguration: podman reads it once, and podman 4.3
// outlives the end of its unit as long as somebody is connected, as the agent
// always is.
func TestPodmanTakesUpNewConfiguration(t *testing.T) {
	t.Parallel()
	l := open(t)
	const conf = "/var/lib/fleet-workload/.config/containers/containers.conf.d/50-fleet.conf"
	// What answers on podman's socket.
	const services = `for p in /proc/[0-9]*; do
		if tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^[^ ]*podman .*system service'; then echo ${p#/proc/}; fi
	done`
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := device(t, l, lab.Config{Name: "conf-" + suite, Suite: suite})
			mustAs(t, m, lab.WorkloadUser, "podman", "create", "--name", "hello", lab.HelloImage)
			// The first podman after a boot is the one that serves.
			if err := m.Reboot(t.Context()); err != nil {
				t.Fatal(err)
			}
			mustAs(t, m, lab.AgentUser, "podman", "--remote", "--url", "unix://"+lab.PodmanSocket, "start", "hello")
			inspect := []string{"podman", "inspect", "--type", "container", "--format", "{{.State.Pid}}", "hello"}
			must(t, m, "systemd-run", "--quiet", "--uid="+lab.AgentUser,
				"curl", "-sS", "--no-buffer", "--unix-socket", lab.PodmanSocket, "http://d/v4.0.0/libpod/events?stream=true")
			eventually(t, "podman serves", func() bool { return must(t, m, "sh", "-c", services) != "" })
			old := strings.Fields(must(t, m, "sh", "-c", services))
			container := mustAs(t, m, lab.WorkloadUser, inspect...)
			mustAs(t, m, lab.WorkloadUser, "sh", "-c", "echo '# of another version' >"+conf)
			must(t, m, setupUser)
			must(t, m, "grep", "-q", "log_size_max", conf)
			for _, pid := range old {
				eventually(t, "the old podman, process "+pid+", ends", func() bool {
					r, err := m.Run(t.Context(), "test", "-e", "/proc/"+pid)
					return err == nil && r.ExitCode != 0
				})
			}
			if after := mustAs(t, m, lab.WorkloadUser, inspect...); after != container {
				t.Errorf("the container was process %s, is %s", container, after)
			}
			checkPodmanComesBack(t, m)
			checkRemovalOnATerminal(t, m)
		})
	}
}

// checkPodmanComesBack: neither a pause process whose number another process has by now
// nor a podman that does not start, however often it is asked for, ends podman for good.
func checkPodmanComesBack(t *testing.T, m *lab.Machine) {
	t.Helper()
	const (
		ping  = "curl -s --max-time 2 --unix-socket " + lab.PodmanSocket + " http://d/v4.0.0/libpod/_ping"
		stale = `cd /run/user/$(id -u fleet-workload)/libpod && file=$(ls tmp/pause.pid pause.pid 2>/dev/null | head -n 1) &&
			other=$(systemctl show --property=MainPID --value user@$(id -u fleet-workload)) && kill -9 $(cat $file) && printf %s $other >$file`
		end  = `systemctl --user stop podman.service`
		away = `mv /usr/bin/podman /usr/bin/podman.away && (timeout 6 sh -c 'while :; do ` + ping + `; done'; mv /usr/bin/podman.away /usr/bin/podman)`
	)
	answers := func() bool {
		r, err := m.RunAs(t.Context(), lab.AgentUser, "sh", "-c", ping)
		return err == nil && r.Stdout == "OK"
	}
	must(t, m, "sh", "-c", stale)
	// The control: this is what a person meets until podman's service starts again.
	if r, err := m.RunAs(t.Context(), lab.WorkloadUser, "podman", "ps"); err != nil || r.ExitCode == 0 {
		t.Errorf("podman ps with a stale pause process: %v, %s", err, r.Stdout)
	}
	mustAs(t, m, lab.WorkloadUser, "sh", "-c", end)
	eventually(t, "podman answers after its pause process went", answers)
	mustAs(t, m, lab.WorkloadUser, "podman", "inspect", "--type", "container", "hello")
	mustAs(t, m, lab.WorkloadUser, "sh", "-c", end)
	must(t, m, "sh", "-c", away)
	eventually(t, "podman answers after it was away", answers)
}

// planted is a runtime that a container which broke out put in the place of
// podman's. It types into every terminal that it can reach, and notes its own.
const planted = `#!/bin/sh
perl -e '
	for my $name ("/dev/tty", map { "/proc/self/fd/$_" } 0 .. 63) {
		open(my $terminal, "+<", $name) or next;
		for (split //, "typed-by-the-account\n") { my $character = $_; ioctl($terminal, 0x5412, $character) }
	}'
echo "session of terminal $(cut -d" " -f7 /proc/self/stat)" >>/var/lib/fleet-workload/planted.log
exec /usr/bin/crun "$@"
`

// onATerminal runs a command on a terminal as root does. What somebody types is
// shown, too.
func onATerminal(t *testing.T, m *lab.Machine, command string) string {
	t.Helper()
	return must(t, m, "script", "--quiet", "--command", command, "/dev/null")
}

// checkRemovalOnATerminal: nothing that runs as the account on behalf of root
// reaches root's terminal, and nothing of the account outlives its removal. The
// container hello runs.
func checkRemovalOnATerminal(t *testing.T, m *lab.Machine) {
	t.Helper()
	const (
		home    = "/var/lib/fleet-workload/"
		log     = home + "planted.log"
		runtime = "[engine.runtimes]\ncrun = [\"" + home + "planted\"]\n"
	)
	if err := m.CopyIn(t.Context(), "../../packaging/libexec/cleanup-user", "/usr/libexec/fleet-agent/cleanup-user", 0o755); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{home + "planted": planted, home + ".config/containers/containers.conf": runtime} {
		if err := m.WriteFile(t.Context(), path, strings.NewReader(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must(t, m, "chown", "--recursive", "fleet-workload:fleet-workload", home+"planted", home+".config/containers")
	// The control: this is how an account with root's terminal types.
	const careless = `cd / && runuser -u fleet-workload -- env HOME=/var/lib/fleet-workload XDG_RUNTIME_DIR=/run/user/$(id -u fleet-workload) podman stop --all --time 1`
	if shown := onATerminal(t, m, careless); !strings.Contains(shown, "typed-by-the-account") {
		t.Errorf("the runtime cannot type where it should: %s; %s", shown, must(t, m, "cat", log))
	}
	must(t, m, "rm", log)
	mustAs(t, m, lab.WorkloadUser, "podman", "start", "hello")
	must(t, m, "rm", log)
	// Beside the account's systemd, as cron starts it; and one that multiplies.
	must(t, m, "systemd-run", "--quiet", "--uid=fleet-workload", "--property=KillMode=none", "sleep", "infinity")
	shown := onATerminal(t, m, "/usr/libexec/fleet-agent/cleanup-user stop")
	if strings.Contains(shown, "typed-by") {
		t.Errorf("the account typed: %s", shown)
	}
	if noted := must(t, m, "sort", "-u", log); strings.TrimSpace(noted) != "session of terminal 0" {
		t.Errorf("the runtime noted %q", noted)
	}
	if r, err := m.Run(t.Context(), "pgrep", "-U", "fleet-workload"); err != nil || r.ExitCode != 1 {
		t.Errorf("of the account there run %s (%v)", r.Stdout, err)
	}
	if r, err := m.Run(t.Context(), "test", "-e", "/var/lib/systemd/linger/fleet-workload"); err != nil || r.ExitCode == 0 {
		t.Errorf("the account lingers (%v)", err)
	}
}
