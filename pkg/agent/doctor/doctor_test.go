package doctor_test

import (
	"errors"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	setupUser = "/usr/libexec/fleet-agent/setup-user"
	// asWorkload and piped enclose commands that run as the account.
	asWorkload = "systemd-run --quiet --collect --wait --pipe --property=KillMode=process --uid=fleet-workload --setenv=XDG_RUNTIME_DIR=/run/user/997 "
	piped      = " </dev/null 2>&1 | cat -v"
)

var (
	now     = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	errLost = errors.New("no route to host")
)

func fact[T any](v T) doctor.Fact[T]          { return doctor.Fact[T]{Value: v} }
func unknown[T any](err error) doctor.Fact[T] { return doctor.Fact[T]{Err: err} }

// sound are the facts of a device on which all is well.
func sound() doctor.Facts {
	return doctor.Facts{
		Workload: "fleet-workload", Packaged: true, SetupTool: setupUser, Packages: "apt-get", Now: now,
		Accounts: map[string]doctor.Account{
			"fleet-agent":    {UID: 998, GID: 998, Home: "/var/lib/fleet-agent"},
			"fleet-workload": {UID: 997, GID: 997, Home: "/var/lib/fleet-workload"},
		},
		Programs: []doctor.Program{
			{Name: "podman", Path: "/usr/bin/podman", Privileged: true, Packages: map[string]string{"apt-get": "podman", "dnf": "podman"}},
			{Name: "newuidmap", Path: "/usr/bin/newuidmap", Privileged: true, Packages: map[string]string{"apt-get": "uidmap", "dnf": "shadow-utils"}},
			{Name: "newgidmap", Path: "/usr/bin/newgidmap", Privileged: true, Packages: map[string]string{"apt-get": "uidmap", "dnf": "shadow-utils"}},
		},
		SubUIDs: fact(65536), SubGIDs: fact(65536), Mapped: fact(65536),
		Linger: fact(true), Manager: fact(true),
		Cgroup: doctor.Cgroup{Unified: true, Kernel: []string{"cpu", "io", "memory", "pids"}, Delegated: fact([]string{"cpu", "memory", "pids"})},
		Socket: doctor.Socket{Path: "/run/fleet-workload/podman.sock", Exists: fact(true)},
		Podman: fact(container.Info{Version: "5.4.2", Driver: "overlay"}),
		Disks:  []doctor.Disk{{Name: "state of the agent", Path: "/var/lib/fleet-agent", FileSystem: facts.FileSystem{Size: 100, Used: 50, Inodes: 100, FreeInodes: 50}}},
		Ahead:  fact(time.Second),
		Identity: fact(doctor.Identity{
			Device: "press-1", NotBefore: now.AddDate(0, -1, 0), Renewal: now.AddDate(0, 5, 0), NotAfter: now.AddDate(0, 11, 0),
		}),
		Agent:      fact(control.Status{AgentVersion: "1.0", Connected: true, Server: "tls://gw:4222"}),
		Enrollment: []doctor.Attempt{{Address: "https://gw:8443"}},
		Connection: []doctor.Attempt{{Address: "tls://gw:4222"}},
	}
}

// find returns the finding of a check.
func find(t *testing.T, r doctor.Report, check string) doctor.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no finding %s", check)
	return doctor.Finding{}
}

func TestASoundDevice(t *testing.T) {
	t.Parallel()
	f := sound()
	f.Proxy = &doctor.Proxy{Name: "http://p:1 (proxy.url)", Given: fact(true), Attempts: []doctor.Attempt{{Address: "gw:8443"}}}
	r := doctor.Examine(f)
	if r.State != doctor.OK {
		t.Errorf("the report is %s", r.State)
	}
	for _, f := range r.Findings {
		if f.State != doctor.OK || f.Message == "" || f.Why == "" || f.Command != "" || f.Fixable {
			t.Errorf("got %+v", f)
		}
	}
}

func TestFindings(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		harm    func(*doctor.Facts)
		check   string
		state   doctor.State
		message string // is contained
		command string
		fixable bool
	}{
		"no networks with names": {
			harm:  func(f *doctor.Facts) { f.Podman.Value.NoBridge = "this device lacks netavark: install it" },
			check: "networks", state: doctor.Warning, message: "network.mode Bridge: this device lacks netavark: install it",
			command: "apt-get install --reinstall -y netavark aardvark-dns iptables nftables",
		},
		"no networks to share": {
			harm:  func(f *doctor.Facts) { f.Podman.Value.NoShared = "this device lacks catatonit: install it" },
			check: "networks", state: doctor.Warning, message: "network.mode Shared: this device lacks catatonit", command: "apt-get install --reinstall -y catatonit",
		},
		"no server of names": {
			harm:  func(f *doctor.Facts) { f.NamesLost = fact(true) },
			check: "networks", state: doctor.Warning, message: "podman's server of names (aardvark-dns) has ended",
		},
		"nobody who knows of networks": {
			harm:  func(f *doctor.Facts) { f.Podman = unknown[container.Info](errLost) },
			check: "networks", state: doctor.Unknown, message: "podman does not answer",
		},
		"groups that processes do not have yet": {
			harm: func(f *doctor.Facts) {
				f.Memberships = fact([]doctor.Group{{Name: "dialout", GID: 20}, {Name: "video", GID: 44}, {Name: "gpio", GID: 993}})
				f.Groups = fact([]uint32{997, 44})
			},
			check: "groups", state: doctor.Warning, message: "fleet-workload is in dialout, gpio, but not since its last login", command: "systemctl restart user@997.service",
		},
		"groups that nobody can ask for": {
			harm: func(f *doctor.Facts) {
				f.Memberships, f.Groups = fact([]doctor.Group{{Name: "dialout", GID: 20}}), unknown[[]uint32](errLost)
			},
			check: "groups", state: doctor.Unknown, message: "no route to host",
		},
		"groups that processes have": {
			harm: func(f *doctor.Facts) {
				f.Memberships, f.Groups = fact([]doctor.Group{{Name: "dialout", GID: 20}}), fact([]uint32{997, 20})
			},
			check: "groups", state: doctor.OK, message: "fleet-workload is in dialout",
		},
		"no groups":       {harm: func(*doctor.Facts) {}, check: "groups", state: doctor.OK, message: "fleet-workload is in no group of the device"},
		"a damaged group": {harm: func(f *doctor.Facts) { f.Memberships.Err = errLost }, check: "groups", state: doctor.Unknown, message: "no route to host"},
		"nothing allowed": {harm: func(*doctor.Facts) {}, check: "privileges", state: doctor.OK, message: "agent.yaml lets containers have nothing of the device"},
		"something allowed": {
			harm:  func(f *doctor.Facts) { f.Privileges = []string{"bindRoots /srv", "allow.devices /dev/ttyUSB0"} },
			check: "privileges", state: doctor.OK, message: "agent.yaml lets containers have bindRoots /srv; allow.devices /dev/ttyUSB0",
		},
		"something refused": {
			harm: func(f *doctor.Facts) {
				f.Agent.Value.Conditions = []wire.Condition{{Type: wire.ConditionScoresAllowed, Status: wire.ConditionFalse, Reason: "NotAllowed", Message: "shop/web: service nvr: devices[0]"}}
			},
			check: "privileges", state: doctor.Warning, message: "shop/web: service nvr: devices[0]",
		},
		"an interpreter that does not answer": {
			harm: func(f *doctor.Facts) {
				f.Interpreters = fact([]doctor.Interpreter{{Name: "interpreter mine", Problem: errLost}})
			},
			check: "interpreters", state: doctor.Warning, message: "interpreter mine: no route to host",
		},
		"one of the agent's own": {
			harm: func(f *doctor.Facts) {
				f.Interpreters = fact([]doctor.Interpreter{{Name: "interpreter files", Problem: errLost, Unit: "fleet-agent-files"}})
			},
			check: "interpreters", state: doctor.Warning, message: "interpreter files: no route to host", command: "systemctl stop fleet-agent-files.service && systemctl restart fleet-agent-files.socket", fixable: true,
		},
		"one that may not be asked": {
			harm: func(f *doctor.Facts) {
				f.Interpreters = fact([]doctor.Interpreter{{Name: "interpreter mine", Problem: fs.ErrPermission}})
			},
			check: "interpreters", state: doctor.Unknown, message: "interpreter mine: needs root",
		},
		"one that answers": {
			harm:  func(f *doctor.Facts) { f.Interpreters = fact([]doctor.Interpreter{{Name: "interpreter mine"}}) },
			check: "interpreters", state: doctor.OK, message: "interpreter mine answers",
		},
		"a proxy that refuses": {
			harm: func(f *doctor.Facts) {
				f.Proxy = &doctor.Proxy{Name: "http://p:1 (proxy.url)", Attempts: []doctor.Attempt{{Address: "gw:8443"}, {Address: "gw:4222", Err: errors.New("the proxy refuses")}}}
			},
			check: "proxy", state: doctor.Failure, message: "the proxy refuses",
		},
		"a proxy that can be done without": {
			harm: func(f *doctor.Facts) {
				f.Proxy = &doctor.Proxy{Name: "http://p:1 (HTTPS_PROXY)", Spare: true, Attempts: []doctor.Attempt{{Address: "gw:4222", Err: errors.New("the proxy refuses")}}}
			},
			check: "proxy", state: doctor.Warning, message: "the proxy refuses; the agent goes on to try without it, and podman does not",
		},
		"a proxy whose password others can read": {
			harm: func(f *doctor.Facts) {
				f.Proxy = &doctor.Proxy{Name: "http://p:1 (proxy.url)", Given: fact(true), Exposed: "/etc/default/fleet-agent", Hide: "chmod 0600 /etc/default/fleet-agent"}
			},
			check: "proxy", state: doctor.Warning, message: "can read the password of the proxy in /etc/default/fleet-agent", command: "chmod 0600 /etc/default/fleet-agent", fixable: true,
		},
		"a proxy that podman does not know": {
			harm:  func(f *doctor.Facts) { f.Proxy = &doctor.Proxy{Name: "http://p:1 (proxy.url)"} },
			check: "proxy", state: doctor.Warning, message: "http://p:1 (proxy.url) is not what podman was told", command: "systemctl restart fleet-agent",
		},
		"a bad configuration": {
			harm:  func(f *doctor.Facts) { f.Config = errors.New("line 3: unknown key sever") },
			check: "configuration", state: doctor.Failure, message: "unknown key sever",
		},
		"no account": {
			harm:  func(f *doctor.Facts) { delete(f.Accounts, "fleet-workload") },
			check: "accounts", state: doctor.Failure, message: "the account fleet-workload does not exist", command: setupUser, fixable: true,
		},
		"no account and no setup-user": {
			harm:  func(f *doctor.Facts) { delete(f.Accounts, "fleet-agent"); f.SetupTool = "" },
			check: "accounts", state: doctor.Failure, message: "the account fleet-agent does not exist, and neither does the program that makes it: install the package fleet-agent",
		},
		"an expired account": {
			harm:  func(f *doctor.Facts) { f.Accounts["fleet-agent"] = doctor.Account{Expired: true} },
			check: "accounts", state: doctor.Failure, message: "has expired", command: "chage --expiredate -1 fleet-agent", fixable: true,
		},
		"an account that cannot be seen": {
			harm: func(f *doctor.Facts) {
				f.Workload, f.Packaged, f.Socket.Exists = "", false, unknown[bool](fs.ErrPermission)
			},
			check: "accounts", state: doctor.Unknown, message: "permission denied",
		},
		"no setup-user": {
			harm:  func(f *doctor.Facts) { f.SetupTool = "" },
			check: "setup", state: doctor.Warning, message: "install fleet-agent again",
		},
		"setup-user has not run": {
			harm:  func(f *doctor.Facts) { f.Setup.Err = fs.ErrNotExist },
			check: "setup", state: doctor.Warning, message: "has not ended since the device booted", command: setupUser, fixable: true,
		},
		"setup-user failed": {
			harm: func(f *doctor.Facts) {
				f.Setup.Value = "/etc is read-only: run setup-user where the system image is built"
			},
			check: "setup", state: doctor.Failure, message: "/etc is read-only", command: setupUser, fixable: true,
		},
		"setup-user's line cannot be read": {
			harm:  func(f *doctor.Facts) { f.Setup.Err = fs.ErrPermission },
			check: "setup", state: doctor.Unknown, message: "permission denied",
		},
		"missing programs": {
			harm:  func(f *doctor.Facts) { f.Programs[1].Path, f.Programs[2].Path = "", "" },
			check: "programs", state: doctor.Failure, message: "missing: newuidmap, newgidmap", command: "apt-get install --reinstall -y uidmap",
		},
		"missing programs with dnf": {
			harm:  func(f *doctor.Facts) { f.Packages = "dnf"; f.Programs[0].Path = ""; f.Programs[1].Path = "" },
			check: "programs", state: doctor.Failure, message: "missing: podman, newuidmap", command: "dnf install -y podman shadow-utils",
		},
		"missing programs and no package manager": {
			harm:  func(f *doctor.Facts) { f.Packages = ""; f.Programs[0].Path = "" },
			check: "programs", state: doctor.Failure, message: "missing: podman",
		},
		"a program without rights": {
			harm:  func(f *doctor.Facts) { f.Packages = "dnf"; f.Programs[1].Privileged = false },
			check: "programs", state: doctor.Failure, message: "neither setuid root nor with file capabilities: /usr/bin/newuidmap", command: "dnf reinstall -y shadow-utils",
		},
		"no uids": {
			harm:  func(f *doctor.Facts) { f.SubUIDs.Value = 0 },
			check: "subordinate-ids", state: doctor.Failure, message: "has 0 subordinate uids, and needs 65536", command: setupUser, fixable: true,
		},
		"too few gids": {
			harm:  func(f *doctor.Facts) { f.SubGIDs.Value = 1000 },
			check: "subordinate-ids", state: doctor.Failure, message: "has 1000 subordinate gids", command: setupUser, fixable: true,
		},
		"ids of a directory service": {
			harm:  func(f *doctor.Facts) { f.SubUIDs.Err = errors.New(`nsswitch.conf takes subordinate ids from "sss"`) },
			check: "subordinate-ids", state: doctor.Unknown, message: "sss",
		},
		"ids that came late": {
			harm:  func(f *doctor.Facts) { f.Mapped.Value = 0 },
			check: "subordinate-ids", state: doctor.Failure, message: "podman maps 0 ids only", command: asWorkload + "podman system migrate" + piped,
		},
		"podman cannot map": {
			harm:  func(f *doctor.Facts) { f.Mapped.Err = errors.New("newuidmap: write to uid_map failed") },
			check: "subordinate-ids", state: doctor.Failure, message: "write to uid_map failed",
		},
		"podman lost the process that holds its ids": {
			harm: func(f *doctor.Facts) {
				f.Mapped.Err = errors.New(`invalid internal status, try resetting the pause process with "/usr/bin/podman system migrate"`)
			},
			check: "subordinate-ids", state: doctor.Failure, message: "invalid internal status", command: asWorkload + "podman system migrate" + piped,
		},
		"podman was not tried by another user": {
			harm:  func(f *doctor.Facts) { f.Mapped.Err = doctor.ErrNeedsRoot },
			check: "subordinate-ids", state: doctor.OK, message: "which needs root",
		},
		"podman was not tried without systemd": {
			harm:  func(f *doctor.Facts) { f.Mapped.Err, f.Manager.Value = errors.New("x"), false },
			check: "subordinate-ids", state: doctor.Unknown, message: "systemd does not run for fleet-workload",
		},
		"linger is off": {
			harm:  func(f *doctor.Facts) { f.Linger.Value, f.Manager.Value = false, false },
			check: "linger", state: doctor.Failure, message: "it is off", command: "loginctl enable-linger fleet-workload", fixable: true,
		},
		"systemd does not run": {
			harm:  func(f *doctor.Facts) { f.Manager.Value = false },
			check: "linger", state: doctor.Failure, message: "systemd does not run for fleet-workload", command: "systemctl start user@997.service", fixable: true,
		},
		"linger cannot be seen": {
			harm:  func(f *doctor.Facts) { f.Linger.Err = fs.ErrPermission },
			check: "linger", state: doctor.Unknown, message: "permission denied",
		},
		"a controller is not delegated": {
			harm:  func(f *doctor.Facts) { f.Cgroup.Delegated.Value = []string{"memory", "pids"} },
			check: "cgroup-cpu", state: doctor.Warning, message: "systemd does not delegate it",
			command: `mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\nDelegate=cpu cpuset io memory pids\n' >/etc/systemd/system/user@.service.d/50-fleet.conf && systemctl daemon-reload`,
		},
		"a Raspberry Pi": {
			harm: func(f *doctor.Facts) {
				f.Cgroup.Kernel, f.Cgroup.Delegated.Value = []string{"cpu", "io", "pids"}, []string{"cpu", "pids"}
				f.Cgroup.Board, f.Cgroup.BootFile = "Raspberry Pi 4 Model B Rev 1.4", "/boot/firmware/cmdline.txt"
			},
			check: "cgroup-memory", state: doctor.Warning, message: "a Raspberry Pi boots without it", command: `sed -i '1s/$/ cgroup_enable=memory/' /boot/firmware/cmdline.txt`,
		},
		"a controller that is turned off": {
			harm: func(f *doctor.Facts) {
				f.Cgroup.Kernel, f.Cgroup.Delegated.Value = []string{"cpu"}, []string{"cpu"}
				f.Cgroup.CommandLine = "quiet cgroup_disable=pids,memory rw"
			},
			check: "cgroup-pids", state: doctor.Warning, message: "remove pids from cgroup_disable=",
		},
		"a controller of cgroup version 1": {
			harm: func(f *doctor.Facts) {
				f.Cgroup.Kernel, f.Cgroup.Delegated.Value = []string{"cpu", "pids"}, []string{"cpu", "pids"}
				f.Cgroup.Legacy = []string{"memory"}
			},
			check: "cgroup-memory", state: doctor.Warning, message: "cgroup version 1 holds it",
		},
		"a kernel without a controller": {
			harm: func(f *doctor.Facts) {
				f.Cgroup.Kernel, f.Cgroup.Delegated.Value = []string{"cpu", "pids"}, []string{"cpu", "pids"}
			},
			check: "cgroup-memory", state: doctor.Warning, message: "the kernel does not have it",
		},
		"a controller that nothing needs": {
			harm:  func(f *doctor.Facts) { f.Cgroup.Kernel = []string{"cpu", "memory", "pids"} },
			check: "cgroup-io", state: doctor.OK, message: "not needed",
		},
		"delegation cannot be seen": {
			harm:  func(f *doctor.Facts) { f.Cgroup.Delegated.Err = errors.New("systemd does not run for fleet-workload") },
			check: "cgroup-cpu", state: doctor.Unknown, message: "systemd does not run",
		},
		"an open socket": {
			harm:  func(f *doctor.Facts) { f.Socket.Open = true },
			check: "podman-socket", state: doctor.Failure, message: "whoever uses the socket controls every container", command: setupUser, fixable: true,
		},
		"a silent socket": {
			harm:  func(f *doctor.Facts) { f.Podman.Err = errors.New("nothing listens on the socket") },
			check: "podman-socket", state: doctor.Failure, message: "nothing listens on the socket", command: setupUser, fixable: true,
		},
		"a podman of later": {
			harm:  func(f *doctor.Facts) { f.Podman.Value.Version = "7.0.1" },
			check: "podman-socket", state: doctor.Warning, message: "podman 7.0.1 answers at",
		},
		"a podman of earlier": {
			harm:  func(f *doctor.Facts) { f.Podman.Value.Version = "4.2.0" },
			check: "podman-socket", state: doctor.Warning, message: "was tried with podman 4.3 to 6",
		},
		"a socket that cannot be seen": {
			harm:  func(f *doctor.Facts) { f.Podman.Err, f.Socket.Exists.Err = errLost, fs.ErrPermission },
			check: "podman-socket", state: doctor.Unknown, message: "permission denied",
		},
		"no helper": {
			harm:  func(f *doctor.Facts) { f.Helper.Err = errors.New("fleet-helper.socket does not listen") },
			check: "helper", state: doctor.Warning, message: "does not listen", command: setupUser, fixable: true,
		},
		"a helper that only root may ask": {
			harm:  func(f *doctor.Facts) { f.Helper.Err = doctor.ErrNeedsRoot },
			check: "helper", state: doctor.Unknown, message: "needs root",
		},
		"a root that is not there": {
			harm: func(f *doctor.Facts) {
				f.Roots.Value = []bind.Trouble{{Root: "/srv/x", Err: bind.ErrAbsent, Command: "install -d -m 0755 /srv/x"}}
			},
			check: "bind-roots", state: doctor.Warning, message: "/srv/x: does not exist on this device", command: "install -d -m 0755 /srv/x",
		},
		"roots that only root may look at": {
			harm:  func(f *doctor.Facts) { f.Roots.Err = doctor.ErrNeedsRoot },
			check: "bind-roots", state: doctor.Unknown, message: "needs root",
		},
		"a configuration that is closed": {
			harm: func(f *doctor.Facts) {
				f.Directories.Value = []doctor.Directory{{Problem: "the agent may not enter /etc/fleet-agent", Command: "chmod o+x /etc/fleet-agent"}}
			},
			check: "directories", state: doctor.Failure, message: "may not enter", command: "chmod o+x /etc/fleet-agent",
		},
		"a state that is open": {
			harm: func(f *doctor.Facts) {
				f.Directories.Value = []doctor.Directory{{Problem: "others can use it", Open: true, Command: "chmod 0700 /var/lib/fleet-agent"}}
			},
			check: "directories", state: doctor.Warning, message: "others can use it", command: "chmod 0700 /var/lib/fleet-agent",
		},
		"vfs": {
			harm:  func(f *doctor.Facts) { f.Podman.Value.Driver = "vfs" },
			check: "storage-driver", state: doctor.Warning, message: "REMOVES all containers",
			command: asWorkload + "sh -c 'systemctl --user stop podman.socket podman.service; podman system reset --force'" + piped + " && " + setupUser,
		},
		"a driver that cannot be seen": {
			harm:  func(f *doctor.Facts) { f.Podman.Err = errLost },
			check: "storage-driver", state: doctor.Unknown, message: "podman does not answer",
		},
		"a disk that fills": {
			harm:  func(f *doctor.Facts) { f.Disks[0].Used = 91 },
			check: "disk", state: doctor.Warning, message: "9 % of the file system of /var/lib/fleet-agent (state of the agent) is free",
			command: asWorkload + "podman image prune --force" + piped,
		},
		"a full disk": {
			harm:  func(f *doctor.Facts) { f.Disks[0].Used = 101 },
			check: "disk", state: doctor.Failure, message: "0 % of the file system", command: asWorkload + "podman image prune --force" + piped,
		},
		"no inodes": {
			harm:  func(f *doctor.Facts) { f.Disks[0].FreeInodes = 1 },
			check: "disk", state: doctor.Failure, message: "1 % of the inodes", command: asWorkload + "podman image prune --force" + piped,
		},
		"a file system that has no limit of inodes": {
			harm:  func(f *doctor.Facts) { f.Disks[0].Inodes, f.Disks[0].FreeInodes = 0, 0 },
			check: "disk", state: doctor.OK, message: "50 % of the file system",
		},
		"a read-only disk": {
			harm:  func(f *doctor.Facts) { f.Disks[0].ReadOnly = true },
			check: "disk", state: doctor.Failure, message: "is read-only",
		},
		"not enrolled": {
			harm:  func(f *doctor.Facts) { f.Identity.Err = store.ErrNoIdentity },
			check: "certificate", state: doctor.Failure, message: "not enrolled", command: "fleet-agent enroll --server https://GATEWAY:8443 --token-file FILE",
		},
		"an identity that cannot be seen": {
			harm:  func(f *doctor.Facts) { f.Identity.Err = doctor.ErrNeedsRoot },
			check: "certificate", state: doctor.Unknown, message: "needs root",
		},
		"a damaged key": {
			harm:  func(f *doctor.Facts) { f.Identity.Value.Problem = errors.New("the device's key is damaged") },
			check: "certificate", state: doctor.Failure, message: "the device's key is damaged", command: "fleet-agent enroll --force --server https://GATEWAY:8443 --token-file FILE",
		},
		"an expired certificate": {
			harm: func(f *doctor.Facts) {
				f.Identity.Value.NotAfter, f.Agent.Value.RenewalError = now.Add(-time.Hour), "refused"
			},
			check: "certificate", state: doctor.Failure, message: "it expired at 2026-06-01 11:00:00 UTC, and is renewed as soon as the enrollment address answers; the last renewal failed: refused",
			command: "systemctl restart fleet-agent",
		},
		"a certificate that is expired by a wrong clock only": {
			harm:  func(f *doctor.Facts) { f.Identity.Value.NotAfter, f.Ahead.Value = now.Add(-time.Hour), 2*time.Hour },
			check: "certificate", state: doctor.OK, message: "device press-1, until",
		},
		"an overdue renewal": {
			harm:  func(f *doctor.Facts) { f.Identity.Value.Renewal = now.AddDate(0, 0, -2) },
			check: "certificate", state: doctor.Warning, message: "it was due to be renewed at 2026-05-30 12:00:00 UTC", command: "systemctl restart fleet-agent",
		},
		"a renewal that is due": {
			harm:  func(f *doctor.Facts) { f.Identity.Value.Renewal = now.Add(-time.Hour) },
			check: "certificate", state: doctor.OK, message: "to be renewed from 2026-06-01 11:00:00 UTC",
		},
		"a certificate of the future": {
			harm:  func(f *doctor.Facts) { f.Ahead.Err, f.Now = errLost, now.AddDate(-1, 0, 0) },
			check: "certificate", state: doctor.Warning, message: "not valid yet",
		},
		"a clock ahead": {
			harm:  func(f *doctor.Facts) { f.Ahead.Value = time.Hour },
			check: "clock", state: doctor.Warning, message: "it is 1h0m0s ahead of the server's", command: "timedatectl set-ntp true",
		},
		"a clock behind": {
			harm:  func(f *doctor.Facts) { f.Ahead.Value = -time.Hour },
			check: "clock", state: doctor.Warning, message: "it is 1h0m0s behind the server's", command: "timedatectl set-ntp true",
		},
		"a clock that was set back": {
			harm:  func(f *doctor.Facts) { f.Ahead.Err, f.GoodTime = errLost, now.Add(time.Hour) },
			check: "clock", state: doctor.Warning, message: "but 2026-06-01 13:00:00 UTC has passed already", command: "timedatectl set-ntp true",
		},
		"a clock that nobody can compare": {
			harm:  func(f *doctor.Facts) { f.Ahead.Err = errLost },
			check: "clock", state: doctor.Unknown, message: "no route to host",
		},
		"no agent": {
			harm:  func(f *doctor.Facts) { f.Agent.Err = control.ErrNotRunning },
			check: "agent", state: doctor.Failure, message: "is not running", command: "systemctl enable --now fleet-agent",
		},
		"an agent that may not be asked": {
			harm:  func(f *doctor.Facts) { f.Agent.Err = fs.ErrPermission },
			check: "agent", state: doctor.Unknown, message: "permission denied",
		},
		"an agent that has nothing to do": {
			harm:  func(f *doctor.Facts) { f.Identity.Err, f.Agent.Err = store.ErrNoIdentity, control.ErrNotRunning },
			check: "agent", state: doctor.Unknown, message: "not enrolled",
		},
		"revoked": {
			harm:  func(f *doctor.Facts) { f.Agent.Value.Standing = "this device was revoked" },
			check: "agent", state: doctor.Failure, message: "revoked",
		},
		"an enrollment address that is away": {
			harm:  func(f *doctor.Facts) { f.Enrollment[0].Err = errLost },
			check: "server-enrollment", state: doctor.Failure, message: "https://gw:8443: no route to host",
		},
		"no server": {
			harm: func(f *doctor.Facts) {
				f.Agent.Err, f.Connection[0].Err = control.ErrNotRunning, errLost
			},
			check: "server-connection", state: doctor.Failure, message: "tls://gw:4222: no route to host",
		},
		"one of two servers": {
			harm: func(f *doctor.Facts) {
				f.Agent.Err = control.ErrNotRunning
				f.Connection = []doctor.Attempt{{Address: "tls://a:4222", Err: errLost}, {Address: "tls://b:4222"}}
			},
			check: "server-connection", state: doctor.OK, message: "tls://b:4222 answers",
		},
		"an agent that does not connect": {
			harm: func(f *doctor.Facts) {
				f.Agent.Value.Connected, f.Agent.Value.LastError = false, "Authorization Violation"
			},
			check: "server-connection", state: doctor.Failure, message: "the agent is not connected: Authorization Violation", command: "systemctl restart fleet-agent",
		},
		"no address": {
			harm:  func(f *doctor.Facts) { f.Enrollment = nil },
			check: "server-enrollment", state: doctor.Unknown, message: "no address is known",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := sound()
			tt.harm(&f)
			r := doctor.Examine(f)
			got := find(t, r, tt.check)
			if got.State != tt.state || !strings.Contains(got.Message, tt.message) || got.Command != tt.command || got.Fixable != tt.fixable {
				t.Errorf("got %+v", got)
			}
			if tt.state != doctor.OK && r.State == doctor.OK {
				t.Error("the report is ok")
			}
		})
	}
}

// In a developer's own session nothing of the packages is there or needed.
func TestASessionOfItsOwn(t *testing.T) {
	t.Parallel()
	f := sound()
	f.Workload, f.Packaged, f.SetupTool, f.Setup.Err = "dev", false, "", fs.ErrNotExist
	f.Accounts = map[string]doctor.Account{"dev": {UID: 1000, Home: "/home/dev"}}
	f.SubUIDs.Value = 0
	r := doctor.Examine(f)
	for _, finding := range r.Findings {
		if finding.Check == "setup" || finding.Command != "" {
			t.Errorf("got %+v", finding)
		}
	}
	for _, c := range doctor.Conditions(r) {
		if c.Type == wire.ConditionSetupComplete {
			t.Errorf("got %+v", c)
		}
	}
}

// After a change of the fleet's root the package manager has to be told.
func TestRepository(t *testing.T) {
	t.Parallel()
	const file = "/etc/apt/keyrings/fleet-gateway-ca.crt"
	f := sound()
	f.Identity.Value.RootHash = "new"
	for state, roots := range map[doctor.State][]string{doctor.OK: {"old", "new"}, doctor.Warning: {"old"}} {
		f.RepositoryRoots = map[string][]string{file: roots}
		got := find(t, doctor.Examine(f), "repository")
		if got.State != state {
			t.Errorf("with %v it is %+v", roots, got)
		}
		if state == doctor.Warning && (got.Command != "fleet-agent add-repository https://GATEWAY:8443 --ca-hash HASH" || got.Fixable) {
			t.Errorf("got %+v", got)
		}
	}
	f.Identity.Err = errLost
	if got := find(t, doctor.Examine(f), "repository"); got.State != doctor.Unknown {
		t.Errorf("without an identity it is %+v", got)
	}
	f.OldRepository = []string{file}
	if got := find(t, doctor.Examine(f), "repository"); got.State != doctor.Warning || !strings.Contains(got.Message, file+" is of an earlier version") ||
		!strings.Contains(got.Command, "add-repository") || got.Fixable {
		t.Errorf("of an earlier version it is %+v", got)
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	f := sound()
	f.Setup.Value = "podman is missing: install the package podman"
	f.Linger.Err = fs.ErrPermission
	f.Cgroup.Kernel, f.Cgroup.Delegated.Value = []string{"cpu"}, []string{"cpu"}
	f.Podman.Value.Driver = "vfs"
	f.Ahead.Value = -7*time.Minute - 20*time.Second
	f.Agent.Value.RenewalError = "no route to host"
	f.Memberships, f.Groups = fact([]doctor.Group{{Name: "dialout", GID: 20}}), fact([]uint32{997})
	f.Now = f.Identity.Value.Renewal.Add(25*time.Hour + f.Ahead.Value)
	want := []wire.Condition{
		{Type: "SetupComplete", Status: "False", Reason: "SetupFailed", Message: "setup: setup-user failed: podman is missing: install the package podman"},
		{Type: "SubordinateIDsReady", Status: "True", Reason: "IDsAllocated"},
		{Type: "LingerEnabled", Status: "Unknown", Reason: "NotKnown", Message: "linger: permission denied"},
		{Type: "CgroupDelegated", Status: "False", Reason: "ControllersMissing", Message: "cgroup-memory: the kernel does not have it; cgroup-pids: the kernel does not have it"},
		{Type: "LayersShared", Status: "False", Reason: "LayersCopied"},
		{Type: "ClockCorrect", Status: "False", Reason: "ClockWrong", Message: "clock: it is 7m0s behind the server's"},
		{Type: "CertificateCurrent", Status: "False", Reason: "NotCurrent"},
		{Type: "GroupsCurrent", Status: "False", Reason: "LoginOutdated", Message: "groups: fleet-workload is in dialout, but not since its last login: a new one ends all containers, which the agent starts again"},
	}
	got := doctor.Conditions(doctor.Examine(f))
	for i, text := range map[int]string{4: "podman copies layers (vfs)", 6: "the last renewal failed: no route to host"} {
		if !strings.Contains(got[i].Message, text) {
			t.Errorf("%s does not say %q: %s", got[i].Type, text, got[i].Message)
		}
		got[i].Message = ""
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, c := range got {
		if !strings.Contains(strings.Join(wire.DeviceConditions, " "), c.Type) {
			t.Errorf("the server drops %s", c.Type)
		}
	}
}

// What cannot be looked at is no reason to say that a device would not come up again.
func TestRestart(t *testing.T) {
	t.Parallel()
	f := sound()
	f.SocketEnabled.Value, f.AgentEnabled.Value = true, true
	if got := doctor.Restart(f); len(got) > 0 {
		t.Errorf("a sound device lacks %q", got)
	}
	f.Linger.Value, f.SocketEnabled.Value, f.AgentEnabled.Value = false, false, false
	want := []string{"linger of fleet-workload", "podman.socket of fleet-workload, which is not enabled", "fleet-agent.service, which is not enabled"}
	if diff := cmp.Diff(want, doctor.Restart(f)); diff != "" {
		t.Error(diff)
	}
	f.Linger.Err, f.SocketEnabled.Err, f.AgentEnabled.Err = fs.ErrPermission, fs.ErrPermission, fs.ErrPermission
	if got := doctor.Restart(f); len(got) > 0 {
		t.Errorf("without the right to look it lacks %q", got)
	}
}

func TestMend(t *testing.T) {
	t.Parallel()
	r := doctor.Report{Findings: []doctor.Finding{
		{Check: "a", State: doctor.OK, Command: "echo never >&2; exit 1", Fixable: true},
		{Check: "b", State: doctor.Failure, Command: "exit 1"},
		{Check: "c", State: doctor.Failure, Command: "true", Fixable: true},
		{Check: "d", State: doctor.Warning, Command: "true", Fixable: true},
		{Check: "e", State: doctor.Warning, Command: "echo one; echo why >&2; exit 3", Fixable: true},
	}}
	want := []doctor.Repair{{Command: "true"}, {Command: "echo one; echo why >&2; exit 3", Error: "why"}}
	if diff := cmp.Diff(want, doctor.Fix(t.Context(), r)); diff != "" {
		t.Error(diff)
	}
}

// TestMendKeepsTheEndOfMuchOutput: what a command repeats may come from an
// account that is not trusted.
func TestMendKeepsTheEndOfMuchOutput(t *testing.T) {
	t.Parallel()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := doctor.Report{Findings: []doctor.Finding{{State: doctor.Failure, Fixable: true, Command: "head -c 300000000 /dev/zero; echo; echo the reason; exit 1"}}}
	repairs := doctor.Fix(t.Context(), r)
	runtime.ReadMemStats(&after)
	if len(repairs) != 1 || repairs[0].Error != "the reason" {
		t.Errorf("%d repairs", len(repairs))
	}
	if grown := after.Sys - before.Sys; grown > 100<<20 {
		t.Errorf("it took %d bytes", grown)
	}
}
