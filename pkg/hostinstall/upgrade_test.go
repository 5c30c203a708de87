package hostinstall_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
)

const (
	revoked = data + "/revoked-keys.jsonl"
	term    = data + "/last-term.json"
	backup  = "/var/lib/fleet-install/fleet-server"
)

// add writes a line at the end of a file.
func (m *machine) add(path, line string) { m.write(path, m.read(path)+line+"\n") }

// keepsTrack makes each start that succeeds say so in the data, as the server
// does.
func (m *machine) keepsTrack() {
	m.started = func(string) {
		if m.active {
			m.write(m.dataDir()+"/last-ready.json", fmt.Sprint(m.starts))
		}
	}
}

// reboot is what a machine does after a power cut.
func (m *machine) reboot() {
	if m.active = false; m.enabled {
		_ = m.restart() // it does not start if it is broken
	}
}

// writeLess makes the record of an upgrade what the first versions wrote.
func (m *machine) writeLess() {
	const path = "/var/lib/fleet-install/fleet-server.json"
	var record map[string]any
	if err := json.Unmarshal([]byte(m.read(path)), &record); err != nil {
		m.t.Fatal(err)
	}
	if upgrade, ok := record["upgrade"].(map[string]any); ok {
		for _, field := range []string{"id", "time", "dataDir", "state", "ready"} {
			delete(upgrade, field)
		}
	}
	data, err := json.Marshal(record)
	if err != nil {
		m.t.Fatal(err)
	}
	m.write(path, string(data))
}

// fails upgrades to a program that never becomes ready.
func (m *machine) fails(t *testing.T, program string) string {
	t.Helper()
	in, out := installer(m, program)
	if err := in.Install(t.Context(), defaults); !errors.Is(err, hostinstall.ErrNotReady) {
		t.Fatalf("got %v, want ErrNotReady\n%s", err, out)
	}
	return out.String()
}

// A device that is revoked while an upgrade fails stays out, and nothing else
// that must not be set back is.
func TestWayBackKeepsRevocations(t *testing.T) {
	t.Parallel()
	v1, broken := release(t, "v1"), release(t, "v2, broken")
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		must(t, m, v1, defaults)
		m.add(revoked, "press-1")
		m.write(term, "7")
		m.write(data+"/pki/authorities.json", "one authority")
		m.write(data+"/pki/device.key", "its key")
		m.write(data+"/note", "before")
		m.started = func(program string) {
			if strings.Contains(program, "broken") {
				m.add(revoked, "press-2")
				m.write(term, "8")
				m.write(data+"/pki/authorities.json", "two authorities")
				m.write(data+"/pki/device-1.key", "the other's key")
				m.write(data+"/note", "meanwhile")
				m.write(data+"/new", "meanwhile")
			}
		}
		m.fails(t, broken)
		for path, want := range map[string]string{
			program: "v1", revoked: "press-1\npress-2\n", term: "8",
			data + "/pki/authorities.json": "two authorities", data + "/pki/device.key": "its key", data + "/pki/device-1.key": "the other's key",
			data + "/note": "before", data + "/new": "", data + "/state.db": "written by v1", // the controls
		} {
			if got := m.read(path); got != want {
				t.Errorf("%s is %q, want %q", path, got, want)
			}
		}
	})
}

// After a power cut at any moment of an upgrade the machine starts what it has,
// and is used for weeks. An upgrade that fails then goes back to that, not to
// the backup of weeks ago.
func TestWeeksOfUseAfterAPowerCut(t *testing.T) {
	t.Parallel()
	v1, v2, broken, later := release(t, "v1"), release(t, "v2"), release(t, "v2, broken"), release(t, "v3, broken")
	for name, tt := range map[string]struct {
		packaged bool
		program  string
		stopped  bool // the operator stops it before the next upgrade
		earlier  bool // an earlier version wrote down less of the upgrade
	}{
		"good":                            {program: v2},
		"good, stopped":                   {program: v2, stopped: true},
		"going back":                      {program: broken},
		"good, earlier":                   {program: v2, earlier: true},
		"going back, earlier":             {program: broken, earlier: true},
		"package":                         {packaged: true, program: v2},
		"package that goes back, stopped": {packaged: true, program: broken, stopped: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				for cuts := 0; ; cuts++ {
					m := newMachine(t)
					if !tt.earlier {
						m.keepsTrack()
					}
					do := func(h hostinstall.Host, path string) error {
						in, _ := installer(h, path)
						return in.Install(t.Context(), defaults)
					}
					where := program
					first := defaults
					if m.packaged = tt.packaged; m.packaged {
						where, first.Package = packaged, v1
						m.write(packaged, "v1")
						do = func(h hostinstall.Host, path string) error {
							in, _ := installer(h, packaged)
							return in.UpgradePackage(t.Context(), hostinstall.Options{DataDir: data, Package: path})
						}
					}
					must(t, m, v1, first)
					m.add(revoked, "press-1")
					if err := do(&faulty{machine: m, left: cuts}, tt.program); !errors.Is(err, errPowerCut) {
						if cuts < 4 {
							t.Errorf("only %d changes were interrupted", cuts)
						}
						return
					}
					if tt.earlier {
						m.writeLess()
					}
					m.reboot()
					used := m.active
					ran := m.read(where)
					if used {
						m.write(data+"/later", "weeks of use")
						m.add(revoked, "press-2")
					}
					m.active = m.active && !tt.stopped
					err := do(m, later)
					if err == nil {
						t.Fatalf("after %d changes: the last upgrade does not fail", cuts)
					}
					if used && m.read(data+"/later") == "" {
						t.Fatalf("after %d changes: what was written in weeks is gone: %v", cuts, err)
					}
					if used && m.read(revoked) != "press-1\npress-2\n" {
						t.Fatalf("after %d changes: the revoked keys are %q: %v", cuts, m.read(revoked), err)
					}
					if got := m.read(where); used && got != ran && !strings.Contains(err.Error(), "no way back") {
						t.Fatalf("after %d changes: %s ran, and now it is %s: %v", cuts, ran, got, err)
					}
					if !used && m.read(where) != "v1" {
						t.Fatalf("after %d changes: nothing ran, and the program is %s: %v", cuts, m.read(where), err)
					}
				}
			})
		})
	}
}

// What lies in the place of a backup is restored only if this upgrade put it there.
func TestForeignBackupIsNotRestored(t *testing.T) {
	t.Parallel()
	v1, broken := release(t, "v1"), release(t, "v2, broken")
	for name, replace := range map[string]func(m *machine){
		"changed": func(m *machine) { m.write(backup+"/data/state.db", "of another fleet") },
		"added":   func(m *machine) { m.write(backup+"/data/more", "") },
		"gone": func(m *machine) {
			if err := os.RemoveAll(filepath.Join(m.Root, backup)); err != nil {
				m.t.Fatal(err)
			}
		},
		"of another upgrade": func(m *machine) { m.write(backup+"/backup.json", `{"id":"OTHER"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newMachine(t)
				must(t, m, v1, defaults)
				m.started = func(program string) {
					if strings.Contains(program, "broken") {
						replace(m)
					}
				}
				in, _ := installer(m, broken)
				err := in.Install(t.Context(), defaults)
				if !errors.Is(err, hostinstall.ErrNotReady) || !strings.Contains(err.Error(), "nothing was restored") {
					t.Fatalf("got %v", err)
				}
				if got := m.read(data + "/state.db"); got != "written by v2, broken" {
					t.Errorf("the data are %q", got)
				}
				m.started = nil
				must(t, m, v1, defaults) // it can go on
			})
		})
	}
}

// Data that were removed since the last upgrade do not come back with the next.
func TestBackupOfAnEarlierUpgradeIsNotRestored(t *testing.T) {
	t.Parallel()
	v1, v2, broken := release(t, "v1"), release(t, "v2"), release(t, "v3, broken")
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		must(t, m, v1, with(one("logLevel", "info")))
		m.write(data+"/old", "of v1")
		must(t, m, v2, defaults)
		for _, path := range []string{data, config} {
			if err := os.RemoveAll(filepath.Join(m.Root, path)); err != nil {
				t.Fatal(err)
			}
		}
		m.fails(t, broken)
		if m.read(data+"/old") != "" || m.read(config) != "" || m.read(program) != "v2" {
			t.Errorf("the data are %q, the configuration %q, the program %q", m.read(data+"/old"), m.read(config), m.read(program))
		}
	})
}

// Somebody fixes the configuration while the upgrade fails. Files that only the
// upgrade added go.
func TestWayBackKeepsEdits(t *testing.T) {
	t.Parallel()
	v1, broken := release(t, "v1"), release(t, "v2, broken")
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		must(t, m, v1, with(one("logLevel", "info")))
		m.started = func(program string) {
			if strings.Contains(program, "broken") {
				m.write(config, "logLevel: debug # mine\n")
			}
		}
		out := m.fails(t, broken)
		if m.read(config) != "logLevel: debug # mine\n" || !strings.Contains(out, "keep    "+config) {
			t.Errorf("the configuration is %q\n%s", m.read(config), out)
		}
		m = newMachine(t)
		must(t, m, v1, defaults)
		in, _ := installer(m, broken)
		if err := in.Install(t.Context(), with(one("logLevel", "info"))); !errors.Is(err, hostinstall.ErrNotReady) || m.read(config) != "" {
			t.Errorf("got %v, the configuration is %q", err, m.read(config))
		}
	})
}

// The way back leads to one directory.
func TestDataDirAndVersionChangeApart(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	must(t, m, release(t, "v1"), defaults)
	if err := os.Rename(filepath.Join(m.Root, data), filepath.Join(m.Root, "/srv/fleet")); err != nil {
		t.Fatal(err)
	}
	v2, elsewhere := release(t, "v2"), with(one("dataDir", "/srv/fleet"))
	in, _ := installer(m, v2)
	if err := in.Install(t.Context(), elsewhere); !errors.Is(err, hostinstall.ErrRefused) || m.read(program) != "v1" {
		t.Errorf("got %v, the program is %q", err, m.read(program))
	}
	must(t, m, release(t, "v1"), elsewhere)
	must(t, m, v2, elsewhere)
	if m.read(program) != "v2" || m.read(backup+"/data/state.db") != "written by v1" {
		t.Errorf("the program is %q, the backup of %q", m.read(program), m.read(backup+"/data/state.db"))
	}
}

// apt upgraded the server since its package was kept.
func TestKeptPackageOfAnotherVersionIsNotInstalled(t *testing.T) {
	t.Parallel()
	v1, broken := release(t, "v1"), release(t, "v3, broken")
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.packaged = true
		m.write(packaged, "v1")
		o := defaults
		o.Package = v1
		must(t, m, packaged, o)
		m.write(packaged, "v2") // by apt
		o.Package = broken
		in, out := installer(m, packaged)
		if err := in.UpgradePackage(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no way back") || !strings.Contains(out.String(), "no way back") {
			t.Errorf("got %v\n%s", err, out)
		}
		if m.read(packaged) != "v3, broken" || len(m.installed) != 1 {
			t.Errorf("the program is %q after %q", m.read(packaged), m.installed)
		}
	})
}

// An upgrade that was interrupted ends with the product that it was of.
func TestUninstallEndsAnUpgrade(t *testing.T) {
	t.Parallel()
	v1, v2, broken := release(t, "v1"), release(t, "v2"), release(t, "v3, broken")
	synctest.Test(t, func(t *testing.T) {
		for cuts := 0; ; cuts++ {
			m := newMachine(t)
			must(t, m, v1, defaults)
			in, _ := installer(&faulty{machine: m, left: cuts}, v2)
			if err := in.Install(t.Context(), defaults); !errors.Is(err, errPowerCut) {
				return
			}
			in, _ = installer(m, v2)
			if err := in.Uninstall(t.Context(), hostinstall.Removal{}); err != nil {
				t.Fatal(err)
			}
			m.write(data+"/later", "weeks of use")
			in, _ = installer(m, broken)
			if err := in.Install(t.Context(), defaults); !errors.Is(err, hostinstall.ErrNotReady) {
				t.Fatalf("got %v, want ErrNotReady", err)
			}
			if m.read(data+"/later") == "" {
				t.Fatalf("after %d changes: what was written in weeks is gone", cuts)
			}
		}
	})
}

// hasty is a machine on which something happens at the first change.
type hasty struct {
	*machine
	meanwhile func()
}

func (h *hasty) Put(path string, content io.Reader, mode fs.FileMode) error {
	if f := h.meanwhile; f != nil {
		h.meanwhile = nil
		f()
	}
	return h.machine.Put(path, content, mode)
}

// Whoever may write to the file of a program cannot exchange it after it was
// looked at.
func TestProgramThatChangesMeanwhile(t *testing.T) {
	t.Parallel()
	m, v1 := newMachine(t), release(t, "v1")
	in, _ := installer(&hasty{m, func() {
		if err := os.WriteFile(v1, []byte("evil"), 0o755); err != nil {
			t.Error(err)
		}
	}}, v1)
	if err := in.Install(t.Context(), defaults); err == nil || m.read(program) != "" || m.active {
		t.Errorf("got %v, the program is %q, active %t", err, m.read(program), m.active)
	}
}

// The package that is kept is the one that was installed.
func TestPackageThatChangesMeanwhile(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.packaged = true
	m.write(packaged, "v1")
	must(t, m, packaged, defaults)
	o := defaults
	o.Package = release(t, "v2")
	m.started = func(string) {
		if err := os.WriteFile(o.Package, []byte("evil"), 0o644); err != nil {
			t.Error(err)
		}
	}
	in, _ := installer(m, packaged)
	if err := in.UpgradePackage(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := m.read(backup + "/package.deb"); got != "v2" || m.read(backup+"/next.deb") != "" {
		t.Errorf("the package that is kept is %q", got)
	}
}

// A backup that cannot be made leaves the server running.
func TestBackupFails(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	must(t, m, release(t, "v1"), defaults)
	if err := os.Mkdir(filepath.Join(m.Root, data, "\xff"), 0o700); err != nil { // it has no name that can be copied
		t.Fatal(err)
	}
	in, _ := installer(m, release(t, "v2"))
	if err := in.Install(t.Context(), defaults); err == nil || !m.active || m.read(program) != "v1" {
		t.Errorf("got %v, active %t, program %q", err, m.active, m.read(program))
	}
}
