//go:build linux

package packages_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// safeCPIO keeps rpmlint, which unpacks with plain cpio, from following the
// absolute paths of an rpm to the root of this host.
const safeCPIO = "#!/bin/sh\nexec /usr/bin/cpio --no-absolute-filenames \"$@\"\n"

// TestLint: no errors; what is overridden has its reason beside it.
func TestLint(t *testing.T) {
	t.Parallel()
	packed(t)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "cpio"), []byte(safeCPIO), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"lintian": {"lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning", debFile("fleet-agent", newVersion), debFile("fleet-server", newVersion)},
		"rpmlint": {"rpmlint", "--config", "../../packaging/rpm/rpmlint.toml", rpmFile("fleet-agent", newVersion), rpmFile("fleet-server", newVersion)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Cleanup(func() {
		if _, err := os.Stat("/usr/share/licenses/fleet-agent"); err == nil {
			t.Error("the packages were unpacked on this host")
		}
	})
}
