package packaging_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
)

// removals are the scripts that remove what an account owns whom nobody trusts.
var removals = map[string]struct{ script, dir string }{
	"server": {"deb/fleet-server.postrm", "/var/lib/fleet-server"},
	"agent":  {"libexec/cleanup-user", "/var/lib/fleet-agent"},
}

// purge runs the script on a directory in the place of all of the system's, after
// a command in a mount namespace of its own.
func purge(t *testing.T, script, dir, before string, env ...string) string {
	t.Helper()
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := strings.NewReplacer(
		"empty_timeout=300", "empty_timeout=1", "PATH=/usr/local/sbin:", "PATH=$FIRST:/usr/local/sbin:",
		"/var/lib/fleet-", dir+"/var/lib/fleet-", "/etc/", dir+"/etc/", "/run/", dir+"/run/", "/usr/local/bin/", dir+"/usr/local/bin/",
	).Replace(string(text))
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(elsewhere), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-euc", before+` sh "$1" purge`, "sh", path)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestPurgeEnds(t *testing.T) {
	t.Parallel()
	for name, r := range removals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, first := t.TempDir(), t.TempDir()
			// In the place of one that has more to do than there is time for.
			slow := "#!/bin/sh\nexec sleep 600\n"
			if err := errors.Join(os.MkdirAll(filepath.Join(dir, r.dir), 0o755), os.WriteFile(filepath.Join(first, "find"), []byte(slow), 0o700)); err != nil {
				t.Fatal(err)
			}
			out := purge(t, r.script, dir, "", "PATH="+first+":"+os.Getenv("PATH"), "FIRST="+first)
			if !strings.Contains(out, "removing it takes too long") {
				t.Errorf("it says %q", out)
			}
		})
	}
}

// TestPurgeSteersNoTerminal: an account may mount something, with fusermount, on a
// directory with any name.
func TestPurgeSteersNoTerminal(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for name, r := range removals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			trap := filepath.Join(dir, r.dir, "a\x1b[2J b\u009b")
			if err := errors.Join(os.MkdirAll(trap, 0o755), os.WriteFile(filepath.Join(dir, r.dir, "file"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			out := purge(t, r.script, dir, fmt.Sprintf("mount -t tmpfs none '%s';", trap), "FIRST=/usr/bin")
			if !strings.Contains(out, "it is a mount point") || strings.ContainsFunc(out, func(r rune) bool { return !unicode.IsGraphic(r) && r != '\n' }) {
				t.Errorf("it says %q", out)
			}
			if left, err := filepath.Glob(filepath.Join(dir, r.dir, "*")); err != nil || len(left) != 1 {
				t.Errorf("left is %q, %v", left, err)
			}
		})
	}
}
