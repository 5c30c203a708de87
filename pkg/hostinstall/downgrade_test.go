package hostinstall_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
)

// TestOldProgramsAreRefused: an old release is signed as well as a new one.
func TestOldProgramsAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	install := func(version, content string, allow, dry bool) error {
		in, _ := installer(m, release(t, content))
		in.Version, in.DryRun = version, dry
		o := defaults
		o.AllowDowngrade = allow
		return in.Install(t.Context(), o)
	}
	if err := install("9.9", "v9.9", false, false); err != nil {
		t.Fatal(err)
	}
	before := m.tree()
	for _, dry := range []bool{true, false} {
		err := install("9.8", "v9.8", false, dry)
		if !errors.Is(err, hostinstall.ErrDowngrade) || hostinstall.ExitCode(err) != 12 {
			t.Errorf("dry %t: got %v", dry, err)
		}
	}
	if diff := cmp.Diff(before, m.tree()); diff != "" || m.starts != 1 {
		t.Errorf("it changed something: %d starts\n%s", m.starts, diff)
	}
	for _, tt := range []struct {
		version, content string
		allow            bool
	}{{"9.10", "v9.10", false}, {"9.10", "v9.10, built again", false}, {"9.8", "v9.8", true}, {"9.9", "v9.9", false}} {
		if err := install(tt.version, tt.content, tt.allow, false); err != nil || m.read(program) != tt.content {
			t.Errorf("version %s: got %v, the program is %q", tt.version, err, m.read(program))
		}
	}
}

func TestOldPackagesAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.packaged = true
	m.write(packaged, "v9.9")
	upgrade := func(content string, allow bool) error {
		in, _ := installer(m, packaged)
		o := defaults
		o.Package, o.AllowDowngrade = release(t, content), allow
		return in.UpgradePackage(t.Context(), o)
	}
	if err := upgrade("v9.8", false); !errors.Is(err, hostinstall.ErrDowngrade) || len(m.installed) > 0 {
		t.Errorf("got %v, installed are %q", err, m.installed)
	}
	for _, tt := range []struct {
		content string
		allow   bool
	}{{"v9.10", false}, {"v9.10", false}, {"v9.8", true}, {"v9.9", false}} {
		if err := upgrade(tt.content, tt.allow); err != nil || m.read(packaged) != tt.content {
			t.Errorf("%s: got %v, the program is %q", tt.content, err, m.read(packaged))
		}
	}
}
