package main

import (
	"testing"

	"github.com/spf13/pflag"

	"fleet.nationtech.io/fleet/pkg/settings"
)

// TestEverySettingCanBeInstalled: each flag that all commands have is one of a key
// of the file, which install writes.
func TestEverySettingCanBeInstalled(t *testing.T) {
	t.Parallel()
	keys := map[string]string{}
	for _, s := range settings.Of(&config{}) {
		keys[s.Flag] = s.Key
	}
	root := newRoot(nil)
	var args []string
	root.PersistentFlags().VisitAll(func(p *pflag.Flag) {
		if p.Name == "config" {
			return
		}
		if keys[p.Name] == "" {
			t.Errorf("--%s: install cannot write it, the file has no key for it", p.Name)
		}
		args = append(args, "--"+p.Name, "a")
	})
	install, _, err := root.Find([]string{"install"})
	if err != nil {
		t.Fatal(err)
	}
	if err := install.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	var i installOptions
	written := i.options(install, &options{}).Settings
	if len(written) != len(keys) {
		t.Errorf("install writes %d settings of %d", len(written), len(keys))
	}
	for _, w := range written {
		if w.Values[0] != "a" {
			t.Errorf("%s is %q", w.Key, w.Values)
		}
	}
}
