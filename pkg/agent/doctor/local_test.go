package doctor_test

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/doctor"
	"fleet.nationtech.io/fleet/pkg/pki"
)

// device is the root of a file system.
type device struct {
	t    *testing.T
	root string
}

func newDevice(t *testing.T) device {
	t.Helper()
	return device{t: t, root: t.TempDir()}
}

func (d device) write(path, content string, mode os.FileMode) {
	d.t.Helper()
	path = filepath.Join(d.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		d.t.Fatal(err)
	}
}

func (d device) read() doctor.Facts { return d.local().Read() }

func (d device) local() doctor.Local {
	return doctor.Local{
		Root: d.root, Workload: "fleet-workload", Socket: "/run/fleet-workload/podman.sock",
		Lookup: func(name string) (*user.User, error) {
			if name == "fleet-workload" {
				return &user.User{Uid: "997", Gid: "996", HomeDir: "/var/lib/fleet-workload"}, nil
			}
			return nil, user.UnknownUserError(name)
		},
		RepositoryRoots: []string{"/etc/apt/ca.crt", "/etc/pki/ca.crt", "/etc/damaged.crt"},
	}
}

func TestRootsOfPackageManagers(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	authorities, err := pki.Load(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d.write("etc/apt/ca.crt", string(authorities.RootsPEM()), 0o644)
	d.write("etc/damaged.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644)
	hash := authorities.RootHash()
	want := map[string][]string{"/etc/apt/ca.crt": {hex.EncodeToString(hash[:])}, "/etc/damaged.crt": nil}
	if diff := cmp.Diff(want, d.read().RepositoryRoots); diff != "" {
		t.Error(diff)
	}
}

func TestOldRepository(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	l := d.local()
	l.RepositoryForm = map[string]map[string]string{"/etc/source": {"/etc/hook": "verify", "/etc/pin": "-1"}, "/etc/repo": {"/etc/repo": "include"}}
	check := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, l.Read().OldRepository); diff != "" {
			t.Error(diff)
		}
	}
	check() // no gateway has been told of
	d.write("etc/source", "", 0o644)
	d.write("etc/repo", "", 0o644)
	check("/etc/hook", "/etc/pin", "/etc/repo")
	d.write("etc/hook", "or verify it", 0o644)
	d.write("etc/pin", "0", 0o644)
	d.write("etc/repo", "include", 0o644)
	check("/etc/pin")
	d.write("etc/pin", "-1", 0o644)
	check()
}

// An installation without a package has it elsewhere.
func TestSetupToolWithoutAPackage(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	const path = "/usr/local/libexec/fleet-agent/setup-user"
	d.write(path, "", 0o755)
	if got := d.read().SetupTool; got != path {
		t.Errorf("setup-user is %q, want %q", got, path)
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	const cgroup = "sys/fs/cgroup/"
	d.write("usr/libexec/fleet-agent/setup-user", "", 0o755)
	d.write("run/fleet-agent-setup.status", "/etc is read-only\n", 0o644)
	d.write("etc/subuid", "other:1:2\nfleet-workload:100000:1000\n997:200000:65536\nbad\nfleet-workload:1:x\n", 0o644)
	d.write("etc/nsswitch.conf", "passwd: files\n# subid: sss\nsubid: files # ours\n", 0o644)
	d.write("etc/shadow", "other:!::::::1:\nfleet-workload:!:20000::::::\n", 0o600)
	d.write("var/lib/systemd/linger/fleet-workload", "", 0o644)
	d.write("usr/bin/apt-get", "", 0o755)
	d.write("usr/bin/podman", "", 0o755)
	d.write("usr/bin/newuidmap", "", 0o755|fs.ModeSetuid)
	d.write("usr/bin/newgidmap", "", 0o755)
	d.write("usr/bin/runc", "", 0o644)
	d.write(cgroup+"cgroup.controllers", "cpu io pids\n", 0o444)
	d.write(cgroup+"user.slice/user-997.slice/user@997.service/cgroup.controllers", "cpu pids\n", 0o444)
	d.write("proc/cmdline", "quiet rw\n", 0o444)
	d.write("proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t1\t1\nmemory\t4\t1\t1\n", 0o444)
	d.write("proc/device-tree/model", "Raspberry Pi 5\x00", 0o444)
	d.write("boot/cmdline.txt", "", 0o644)
	d.write("run/fleet-workload/podman.sock", "", 0o660)
	f := d.read()
	want := doctor.Cgroup{
		Unified: true, Kernel: []string{"cpu", "io", "pids"}, Delegated: fact([]string{"cpu", "pids"}), Legacy: []string{"memory"},
		CommandLine: "quiet rw\n", Board: "Raspberry Pi 5", BootFile: "/boot/cmdline.txt",
	}
	if diff := cmp.Diff(want, f.Cgroup); diff != "" {
		t.Error(diff)
	}
	if !f.Packaged || f.SetupTool != setupUser || f.Setup.Value != "/etc is read-only" || f.Packages != "apt-get" {
		t.Errorf("got %+v", f)
	}
	if f.SubUIDs != fact(65536) || f.SubGIDs != fact(0) {
		t.Errorf("%+v uids, %+v gids", f.SubUIDs, f.SubGIDs)
	}
	if !f.Linger.Value || !f.Manager.Value || !f.Socket.Exists.Value || f.Socket.Open {
		t.Errorf("got %+v", f)
	}
	if a := f.Accounts["fleet-workload"]; len(f.Accounts) != 1 || a.UID != 997 || a.Expired {
		t.Errorf("accounts are %+v", f.Accounts)
	}
	checkPrograms(t, f.Programs)
}

func checkPrograms(t *testing.T, programs []doctor.Program) {
	t.Helper()
	for _, p := range programs {
		missing, powerless := p.Path == "", p.Path != "" && !p.Privileged
		if missing != (p.Name == "crun") || powerless != (p.Name == "newgidmap") {
			t.Errorf("got %+v", p)
		}
	}
}

func TestLocalOnAnEmptyDevice(t *testing.T) {
	t.Parallel()
	f := newDevice(t).read()
	if !errors.Is(f.Setup.Err, fs.ErrNotExist) || f.SetupTool != "" || f.Packages != "" || f.Socket.Exists != fact(false) {
		t.Errorf("got %+v", f)
	}
	if f.SubUIDs != fact(0) || f.Linger != fact(false) || f.Manager.Err == nil || f.Cgroup.Delegated.Err == nil {
		t.Errorf("got %+v", f)
	}
	if r := doctor.Examine(f); r.State != doctor.Failure {
		t.Errorf("the report is %s", r.State)
	}
}

func TestAnExpiredAccount(t *testing.T) {
	t.Parallel()
	today := time.Now().Unix() / (24 * 60 * 60)
	for day, want := range map[int64]bool{today: true, today + 1: false, 0: true} {
		d := newDevice(t)
		d.write("etc/shadow", "fleet-workload:!:20000::::"+":"+strconv.FormatInt(day, 10)+":\n", 0o600)
		if got := d.read().Accounts["fleet-workload"].Expired; got != want {
			t.Errorf("day %d: %v", day-today, got)
		}
	}
}

func TestADirectoryServiceHasTheIDs(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.write("etc/nsswitch.conf", "subid: sss\n", 0o644)
	if f := d.read(); f.SubUIDs.Err == nil || f.SubGIDs.Err == nil {
		t.Errorf("got %+v, %+v", f.SubUIDs, f.SubGIDs)
	}
}

func TestAnOpenSocketIsSeen(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.write("run/fleet-workload/podman.sock", "", 0o660)
	if err := os.Chmod(filepath.Join(d.root, "run/fleet-workload"), 0o711); err != nil {
		t.Fatal(err)
	}
	if !d.read().Socket.Open {
		t.Error("a directory that anybody can enter is not seen")
	}
}

// A file that somebody made endless is not read.
func TestALongFile(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.write("etc/subuid", string(slices.Repeat([]byte("x:1:1\n"), 1<<18)), 0o644)
	if f := d.read(); f.SubUIDs.Err == nil {
		t.Errorf("got %+v", f.SubUIDs)
	}
}
