//go:build linux

package packages_test

import (
	"os/exec"
	"testing"
)

// TestLint: no errors; what is overridden has its reason beside it.
func TestLint(t *testing.T) {
	t.Parallel()
	packed(t)
	for name, args := range map[string][]string{
		"lintian": {"lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning", debFile("fleet-agent", newVersion), debFile("fleet-server", newVersion)},
		"rpmlint": {"rpmlint", "--config", "../../packaging/rpm/rpmlint.toml", rpmFile("fleet-agent", newVersion), rpmFile("fleet-server", newVersion)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
