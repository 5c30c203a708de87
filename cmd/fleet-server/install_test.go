package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestEverySettingCanBeInstalled keeps install's list with the flags and the
// file's keys.
func TestEverySettingCanBeInstalled(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("config.go")
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot(func(string) string { return "" })
	root.PersistentFlags().VisitAll(func(p *pflag.Flag) {
		if p.Name == "config" || p.Name == "help" {
			return
		}
		key, ok := settingKeys[p.Name]
		if !ok || !strings.Contains(string(source), `json:"`+key+`"`) {
			t.Errorf("--%s: install writes it to key %q, which the file does not have", p.Name, key)
		}
	})
}
