package manual_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/manual"
)

func TestPagesSayWhatTheCommandsAre(t *testing.T) {
	t.Parallel()
	root := &cobra.Command{Use: "tool", Short: "Do something"}
	sub := &cobra.Command{Use: "sub", Short: "Do a part of it", Run: func(*cobra.Command, []string) {}}
	sub.Flags().String("colour", "red", "which colour")
	root.AddCommand(sub, manual.NewCommand())
	dir := filepath.Join(t.TempDir(), "man")
	root.SetArgs([]string{"gen-man", dir})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"tool.8": "Do something", "tool-sub.8": "which colour"} {
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(page), want) || !strings.HasPrefix(string(page), ".") {
			t.Errorf("%s: %v: lacks %q:\n%s", name, err, want, page)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "tool-gen-man.8")); err == nil {
		t.Error("a hidden command has a page")
	}
}
