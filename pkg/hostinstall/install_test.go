package hostinstall_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
	"fleet.nationtech.io/fleet/pkg/settings"
)

var defaults = hostinstall.Options{DataDir: data}

func with(kv ...settings.Change) hostinstall.Options {
	o := hostinstall.Options{DataDir: data, Settings: kv}
	for _, s := range kv {
		if s.Key == "dataDir" {
			o.DataDir = s.Values[0]
		}
	}
	return o
}

func one(key, value string) settings.Change {
	return settings.Change{Key: key, Values: []string{value}}
}

func list(key string, values ...string) settings.Change {
	return settings.Change{Key: key, Values: values, List: true, Inline: true}
}

// must installs a program.
func must(t *testing.T, m *machine, program string, o hostinstall.Options) string {
	t.Helper()
	in, out := installer(m, program)
	if err := in.Install(t.Context(), o); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out.String()
}

func TestInstall(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v1 := release(t, "v1")
	must(t, m, v1, defaults)
	if m.read(program) != "v1" || !m.enabled || !m.active || len(m.accounts) != 1 {
		t.Errorf("program %q, enabled %t, active %t, accounts %v", m.read(program), m.enabled, m.active, m.accounts)
	}
	if got := m.read(unit); !strings.Contains(got, "ExecStart="+program+" run") || strings.Contains(got, "/usr/bin/fleet") {
		t.Errorf("the unit is\n%s", got)
	}
	before := m.tree()
	out := must(t, m, v1, defaults)
	if diff := cmp.Diff(before, m.tree()); diff != "" || m.starts != 1 || strings.Contains(out, "create") {
		t.Errorf("the second run changes something: %d starts\n%s%s", m.starts, out, diff)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v1 := release(t, "v1")
	must(t, m, v1, with(one("apiListen", "127.0.0.1:6443"), list("tlsSANs", "a", "b")))
	const want = "apiListen: 127.0.0.1:6443\ntlsSANs: [a, b]\n"
	if got := m.read(config); got != want {
		t.Errorf("the configuration is\n%s", got)
	}
	must(t, m, v1, defaults)
	if got := m.read(config); got != want {
		t.Errorf("without settings it becomes\n%s", got)
	}
	if out := must(t, m, v1, with(list("tlsSANs", "a"))); !strings.Contains(out, "change  "+config+": tlsSANs: [a]") {
		t.Errorf("it does not say what changes:\n%s", out)
	}
	if got := m.read(config); got != "apiListen: 127.0.0.1:6443\ntlsSANs: [a]\n" || m.starts != 2 {
		t.Errorf("%d starts, the configuration is\n%s", m.starts, got)
	}
}

func TestEditedFilesStay(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v1 := release(t, "v1")
	must(t, m, v1, with(one("logLevel", "info")))
	m.write(config, "logLevel: debug # mine\n")
	m.write(unit, "mine")
	must(t, m, v1, with(one("logLevel", "debug"))) // that is what it says
	in, out := installer(m, v1)
	if err := in.Install(t.Context(), with(one("logLevel", "warn"))); !errors.Is(err, hostinstall.ErrKept) {
		t.Errorf("got %v, want ErrKept", err)
	}
	if !strings.Contains(out.String(), "KEEP    "+config) || !strings.Contains(out.String(), "logLevel: warn") {
		t.Errorf("it does not say what it should become:\n%s", out)
	}
	for _, r := range []hostinstall.Removal{{}, {Purge: true}} {
		in, out = installer(m, v1)
		if err := in.Uninstall(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if m.read(config) != "logLevel: debug # mine\n" || m.read(unit) != "mine" {
		t.Errorf("the edited files are %q and %q\n%s", m.read(config), m.read(unit), out)
	}
}

func TestForeignProgramStays(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.write(program, "somebody's")
	in, _ := installer(m, release(t, "v1"))
	if err := in.Install(t.Context(), defaults); !errors.Is(err, hostinstall.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	if got := m.read(program); got != "somebody's" || m.enabled {
		t.Errorf("the program is %q, enabled %t", got, m.enabled)
	}
}

// A power cut while useradd writes its files leaves an account without a group,
// or a group without an account.
func TestAccountsAreCompleted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                                       string
		accounts, groups, wantAccounts, wantGroups []string
	}{
		{"nothing", nil, nil, []string{"fleet-server"}, []string{"fleet-server"}},
		{"an account", []string{"fleet-server"}, nil, []string{"fleet-server"}, []string{"--gid 998 fleet-server"}},
		{"a group", nil, []string{"fleet-server"}, []string{"fleet-server"}, []string{"fleet-server"}},
		{"both", []string{"fleet-server"}, []string{"fleet-server"}, []string{"fleet-server"}, []string{"fleet-server"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.accounts, m.groups = tt.accounts, tt.groups
			must(t, m, release(t, "v1"), defaults)
			if diff := cmp.Diff([][]string{tt.wantAccounts, tt.wantGroups}, [][]string{m.accounts, m.groups}); diff != "" {
				t.Errorf("accounts and groups (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWhatInstallationsSay has what it says.
func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	before := m.tree()
	in, _ := installer(m, release(t, "v1"))
	in.DryRun = true
	if err := in.Install(t.Context(), with(one("logLevel", "warn"))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, m.tree()); diff != "" || len(m.accounts) > 0 {
		t.Errorf("it changed something:\n%s", diff)
	}
}

// A system whose /usr, /etc or /var cannot be written gets no half of a server.
func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/usr/local/bin", "/etc/", "/var/lib/"} {
		m := newMachine(t)
		m.readOnly = dir
		before := m.tree()
		in, _ := installer(m, release(t, "v1"))
		err := in.Install(t.Context(), with(one("logLevel", "warn")))
		if !errors.Is(err, hostinstall.ErrRefused) || !strings.Contains(err.Error(), "read-only: make it writable") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", dir, err)
		}
		if diff := cmp.Diff(before, m.tree()); diff != "" || len(m.accounts) > 0 {
			t.Errorf("%s: it changed something:\n%s", dir, diff)
		}
	}
}

// A file that does not exist yet is on the file system of what is above it.
func TestMissingFilesCanBeWritten(t *testing.T) {
	t.Parallel()
	h := hostinstall.OS{Root: t.TempDir()}
	if h.ReadOnly("/nosuch/directory/file") {
		t.Error("it is on a file system that is read-only")
	}
}

func TestNoStart(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	o := defaults
	o.NoStart = true
	must(t, m, release(t, "v1"), o)
	if m.enabled || m.active {
		t.Errorf("enabled %t, active %t", m.enabled, m.active)
	}
}

func TestConditionOfTheUnitIsNotMet(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.held = true
	v1 := release(t, "v1")
	synctest.Test(t, func(t *testing.T) {
		in, _ := installer(m, v1)
		if err := in.Install(t.Context(), defaults); !errors.Is(err, hostinstall.ErrNotReady) {
			t.Errorf("got %v, want ErrNotReady", err)
		}
	})
	m.held = false
	must(t, m, v1, defaults)
	if !m.active {
		t.Error("the second run does not start it")
	}
}

func TestWithoutSystemd(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	if err := os.RemoveAll(filepath.Join(m.Root, "run")); err != nil {
		t.Fatal(err)
	}
	out := must(t, m, release(t, "v1"), defaults)
	if m.read(program) != "v1" || m.read(unit) != "" || !strings.Contains(out, "as fleet-server, run: "+program+" run") {
		t.Errorf("program %q, unit %q\n%s", m.read(program), m.read(unit), out)
	}
	in, _ := installer(m, program)
	if err := in.Uninstall(t.Context(), hostinstall.Removal{Purge: true}); err != nil {
		t.Fatal(err)
	}
}

func TestPackage(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.packaged = true
	m.write(packaged, "v1")
	const hold = "/run/systemd/system/fleet-server.service.d/hold.conf"
	m.write(hold, "[Unit]\n")
	v1, v2, broken := release(t, "v1"), release(t, "v2"), release(t, "v3, broken")
	o := with(one("logLevel", "warn"))
	o.Package = v1
	must(t, m, packaged, o)
	if m.read(hold) != "" {
		t.Error("the service is still held")
	}
	if m.read(program) != "" || m.read(unit) != "" || m.read(config) == "" || !m.active {
		t.Errorf("it wrote files of the package, or not its own: %v", m.tree())
	}
	in, _ := installer(m, packaged)
	if err := in.Upgrade(t.Context(), defaults); !errors.Is(err, hostinstall.ErrNoPackage) {
		t.Errorf("got %v, want ErrNoPackage", err)
	}
	upgrade := func(path string) error {
		o.Package = path
		in, _ := installer(m, packaged)
		return in.UpgradePackage(t.Context(), o)
	}
	if err := upgrade(v2); err != nil || m.read(packaged) != "v2" {
		t.Fatalf("%v, the program is %q", err, m.read(packaged))
	}
	synctest.Test(t, func(t *testing.T) {
		o.Package = broken
		in, _ := installer(m, packaged)
		if err := in.UpgradePackage(t.Context(), o); !errors.Is(err, hostinstall.ErrNotReady) {
			t.Errorf("got %v, want ErrNotReady", err)
		}
	})
	if got := m.read(packaged); got != "v2" || !m.active {
		t.Errorf("after a broken upgrade the program is %q, active %t", got, m.active)
	}
	if diff := cmp.Diff([]string{"v2", "v3, broken", "v2"}, m.installed); diff != "" {
		t.Error(diff)
	}
}

// An upgrade that changes nothing, because apt is busy, leaves the server as it
// was, whether its package was kept or not, and keeps nothing from the next one.
func TestPackageWhileAnotherIsInstalled(t *testing.T) {
	t.Parallel()
	for name, kept := range map[string]bool{"kept": true, "not kept": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.packaged = true
			m.write(packaged, "v1")
			o := with(one("logLevel", "warn"))
			if kept {
				o.Package = release(t, "v1")
			}
			must(t, m, packaged, o)
			o.Package = release(t, "v2")
			m.locked = true
			in, out := installer(m, packaged)
			if err := in.UpgradePackage(t.Context(), o); !errors.Is(err, errLocked) || !m.active || m.read(packaged) != "v1" {
				t.Errorf("got %v, active %t, program %q\n%s", err, m.active, m.read(packaged), out)
			}
			m.locked = false
			m.write(data+"/later", "written since") // it must not go back once more
			in, out = installer(m, packaged)
			if err := in.UpgradePackage(t.Context(), o); err != nil || !m.active || m.read(packaged) != "v2" || m.read(data+"/later") == "" {
				t.Errorf("got %v, active %t, program %q\n%s", err, m.active, m.read(packaged), out)
			}
		})
	}
}

// Whose package was not kept cannot go back, is told so, and can go on.
func TestPackageWithoutAWayBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.packaged = true
	m.write(packaged, "v1")
	o := with(one("logLevel", "warn"))
	must(t, m, packaged, o)
	synctest.Test(t, func(t *testing.T) {
		o.Package = release(t, "v2, broken")
		in, out := installer(m, packaged)
		err := in.UpgradePackage(t.Context(), o)
		if !errors.Is(err, hostinstall.ErrNotReady) || !strings.Contains(err.Error(), "no way back") || !strings.Contains(out.String(), "no way back") || m.read(packaged) != "v2, broken" {
			t.Errorf("got %v, the program is %q\n%s", err, m.read(packaged), out)
		}
	})
	o.Package = release(t, "v3")
	in, out := installer(m, packaged)
	if err := in.UpgradePackage(t.Context(), o); err != nil || !m.active || m.read(packaged) != "v3" {
		t.Errorf("got %v, active %t, program %q\n%s", err, m.active, m.read(packaged), out)
	}
}

func TestDataDir(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		dir     string
		prepare func(m *machine)
		refused bool
	}{
		"elsewhere":                       {dir: "/srv/fleet"},
		"not there yet":                   {dir: "/srv/a/b/fleet"},
		"an empty disk":                   {dir: "/srv/disk", prepare: func(m *machine) { m.mkdir("/srv/disk/lost+found") }},
		"somebody's":                      {dir: "/srv/photos", prepare: func(m *machine) { m.write("/srv/photos/cat.jpg", "") }, refused: true},
		"of an earlier server":            {dir: "/srv/old", prepare: func(m *machine) { m.write("/srv/old/state.db", ""); m.write("/srv/old/x", "") }},
		"hidden from the unit":            {dir: "/home/x", refused: true},
		"nothing that a unit can express": {dir: "/srv/a b", refused: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			if tt.prepare != nil {
				tt.prepare(m)
			}
			in, out := installer(m, release(t, "v1"))
			err := in.Install(t.Context(), with(one("dataDir", tt.dir)))
			if errors.Is(err, hostinstall.ErrRefused) != tt.refused || err != nil && !tt.refused {
				t.Fatalf("got %v\n%s", err, out)
			}
			if got := m.read(unit + ".d/50-data-dir.conf"); !tt.refused && !strings.Contains(got, "ReadWritePaths="+tt.dir+"\n") {
				t.Errorf("the unit may not write there: %q", got)
			}
		})
	}
}

func TestDataDirWithDataIsNotLeft(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v1 := release(t, "v1")
	must(t, m, v1, defaults)
	elsewhere := with(one("dataDir", "/srv/fleet"))
	in, _ := installer(m, v1)
	if err := in.Install(t.Context(), elsewhere); !errors.Is(err, hostinstall.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	if err := os.Rename(filepath.Join(m.Root, data), filepath.Join(m.Root, "/srv/fleet")); err != nil {
		t.Fatal(err)
	}
	must(t, m, v1, elsewhere)
	if err := os.Rename(filepath.Join(m.Root, "/srv/fleet"), filepath.Join(m.Root, data)); err != nil {
		t.Fatal(err)
	}
	must(t, m, v1, with(one("dataDir", data)))
	if got := m.read(unit + ".d/50-data-dir.conf"); got != "" {
		t.Errorf("the unit may still write to the directory of before: %q", got)
	}
}

// The server of a package ran before anything was configured here.
func TestDataOfAPackageIsNotLeft(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.packaged = true
	m.write(packaged, "v1")
	m.write(data+"/state.db", "a fleet")
	in, _ := installer(m, packaged)
	if err := in.Install(t.Context(), with(one("dataDir", "/srv/fleet"))); !errors.Is(err, hostinstall.ErrRefused) || !strings.Contains(err.Error(), "move the data to /srv/fleet") {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	must(t, m, release(t, "v1"), defaults)
	m.write(data+"/nats/stream", "bus")
	must(t, m, release(t, "v2"), defaults)
	if got := m.read(program); got != "v2" || !m.active {
		t.Errorf("the program is %q, active %t", got, m.active)
	}
	if got := m.read(data + "/state.db"); got != "written by v2" {
		t.Errorf("the data is %q", got)
	}
}

func TestUpgradeNeedsSpace(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	must(t, m, release(t, "v1"), defaults)
	m.free = 1 << 20
	in, _ := installer(m, release(t, "v2"))
	if err := in.Install(t.Context(), defaults); !errors.Is(err, hostinstall.ErrRefused) || m.read(program) != "v1" || !m.active {
		t.Errorf("got %v, program %q, active %t", err, m.read(program), m.active)
	}
	m.free = 1 << 40
	must(t, m, release(t, "v2"), defaults)
}

func TestUninstall(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	clean := m.tree()
	v1 := release(t, "v1")
	must(t, m, v1, with(one("logLevel", "warn")))
	in, _ := installer(m, v1)
	if err := in.Uninstall(t.Context(), hostinstall.Removal{}); err != nil {
		t.Fatal(err)
	}
	if m.read(program) != "" || m.read(unit) != "" || m.read(config) == "" || m.read(data+"/state.db") == "" || m.active || m.enabled {
		t.Errorf("left: %v, active %t, enabled %t", m.tree(), m.active, m.enabled)
	}
	in, _ = installer(m, v1)
	if err := in.Uninstall(t.Context(), hostinstall.Removal{Purge: true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(clean, m.tree()); diff != "" {
		t.Errorf("a purge leaves something:\n%s", diff)
	}
}

func TestPurgeKeepsMounts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ mount, stays string }{
		"below":  {data + "/backups", data + "/backups/disk"},
		"itself": {data, data},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			v1 := release(t, "v1")
			must(t, m, v1, defaults)
			m.write(data+"/backups/disk", "another disk")
			m.mounts = []string{tt.mount}
			in, out := installer(m, v1)
			if err := in.Uninstall(t.Context(), hostinstall.Removal{Purge: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Lstat(tt.stays); err != nil || m.read(data+"/state.db") != "" {
				t.Errorf("%v, left %v\n%s", err, m.tree(), out)
			}
		})
	}
}

// TestPurgeFollowsNoLink has a link in the data that leads out of it.
func TestPurgeFollowsNoLink(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v1 := release(t, "v1")
	must(t, m, v1, defaults)
	m.write("/srv/photos/cat.jpg", "cat")
	if err := os.Symlink(filepath.Join(m.Root, "/srv/photos"), filepath.Join(m.Root, data, "pki")); err != nil {
		t.Fatal(err)
	}
	must(t, m, release(t, "v2"), defaults) // with a backup
	in, _ := installer(m, v1)
	if err := in.Uninstall(t.Context(), hostinstall.Removal{Purge: true}); err != nil {
		t.Fatal(err)
	}
	if got := m.read("/srv/photos/cat.jpg"); got != "cat" {
		t.Errorf("the cat is %q", got)
	}
}

// TestInterrupted cuts the power before every single change, and runs the same
// again.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	v1, v2, broken := release(t, "v1"), release(t, "v2"), release(t, "v2, broken")
	run := func(program string, o hostinstall.Options) func(*testing.T, hostinstall.Host) error {
		return func(t *testing.T, h hostinstall.Host) error {
			in, _ := installer(h, program)
			return in.Install(t.Context(), o)
		}
	}
	remove := func(r hostinstall.Removal) func(*testing.T, hostinstall.Host) error {
		return func(t *testing.T, h hostinstall.Host) error {
			in, _ := installer(h, v1)
			return in.Uninstall(t.Context(), r)
		}
	}
	upgradePackage := func(path string) func(*testing.T, hostinstall.Host) error {
		return func(t *testing.T, h hostinstall.Host) error {
			in, _ := installer(h, packaged)
			return in.UpgradePackage(t.Context(), hostinstall.Options{DataDir: data, Package: path})
		}
	}
	other := with(one("logLevel", "warn"), list("tlsSANs", "gw"))
	keptPackage := with(one("logLevel", "info"))
	keptPackage.Package = v1
	fromPackage := []func(*testing.T, hostinstall.Host) error{run(packaged, keptPackage)}
	installed := []func(*testing.T, hostinstall.Host) error{run(v1, with(one("logLevel", "info")))}
	tests := map[string]struct {
		packaged bool
		before   []func(*testing.T, hostinstall.Host) error
		do       func(*testing.T, hostinstall.Host) error
		err      error
	}{
		"upgrade of a package":                {packaged: true, before: fromPackage, do: upgradePackage(v2)},
		"upgrade of a package that goes back": {packaged: true, before: fromPackage, do: upgradePackage(broken), err: hostinstall.ErrNotReady},
		"purge beside a package":              {packaged: true, before: fromPackage, do: remove(hostinstall.Removal{Purge: true})},
		"install":                             {do: run(v1, other)},
		"install elsewhere":                   {do: run(v1, with(one("dataDir", "/srv/fleet")))},
		"other settings":                      {before: installed, do: run(v1, other)},
		"upgrade":                             {before: installed, do: run(v2, other)},
		"upgrade that goes back":              {before: installed, do: run(broken, other), err: hostinstall.ErrNotReady},
		"uninstall":                           {before: installed, do: remove(hostinstall.Removal{})},
		"purge":                               {before: installed, do: remove(hostinstall.Removal{Purge: true})},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fresh := func() *machine {
					m := newMachine(t)
					if m.packaged = tt.packaged; m.packaged {
						m.write(packaged, "v1")
					}
					for _, do := range tt.before {
						if err := do(t, m); err != nil {
							t.Fatal(err)
						}
					}
					return m
				}
				want := fresh()
				if err := tt.do(t, want); !errors.Is(err, tt.err) {
					t.Fatalf("uninterrupted: %v", err)
				}
				cuts := 0
				for ; ; cuts++ {
					m := fresh()
					err := tt.do(t, &faulty{machine: m, left: cuts})
					if !errors.Is(err, errPowerCut) {
						break
					}
					if err := tt.do(t, m); !errors.Is(err, tt.err) {
						t.Fatalf("after %d changes and a power cut: %v", cuts, err)
					}
					if diff := cmp.Diff(want.tree(), m.tree()); diff != "" || m.active != want.active || m.enabled != want.enabled {
						t.Fatalf("after %d changes and a power cut: active %t, enabled %t, want %t and %t\n%s",
							cuts, m.active, m.enabled, want.active, want.enabled, diff)
					}
				}
				if cuts < 4 {
					t.Errorf("only %d changes were interrupted", cuts)
				}
			})
		})
	}
}
