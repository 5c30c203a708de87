package version_test

import (
	"os/exec"
	"testing"

	"fleet.nationtech.io/fleet/pkg/version"
)

// inOrder are versions as tools/version.sh writes them, and some that are not.
var inOrder = []string{
	"0.1.0~dev.20270101000000.abc1234", "0.1.0~dev.20270103003000.0000000", "0.1.0~rc.1", "0.1.0~rc.1+dev.20270104000000.abc1234", "0.1.0~rc.10",
	"0.1.0", "0.1.0+dev.20270106000000.abc1234", "0.1.0+dev.20270106000000.abc1234.dirty", "0.1.1", "9.8", "9.9~~", "9.9~", "9.9", "9.9a", "9.9+", "9.9.1", "9.10", "10.0",
}

func TestOlder(t *testing.T) {
	t.Parallel()
	for i, a := range inOrder {
		for j, b := range inOrder {
			if got := version.Older(a, b); got != (i < j) {
				t.Errorf("%s is older than %s: %v", a, b, got)
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "1.00"}, {"1.0", "1."}, {"dev", "1.0"}, {"", "1.0"}} {
		if version.Older(same[0], same[1]) || version.Older(same[1], same[0]) {
			t.Errorf("%q and %q have an order", same[0], same[1])
		}
	}
}

// TestOlderAgreesWithDpkg asks the one whose order it is.
func TestOlderAgreesWithDpkg(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("there is no dpkg")
	}
	for _, a := range inOrder {
		for _, b := range []string{"0.1.0", "9.9", "9.9+~a", "9.9~1"} {
			err := exec.CommandContext(t.Context(), "dpkg", "--compare-versions", a, "lt", b).Run()
			if got := version.Older(a, b); got != (err == nil) {
				t.Errorf("%s is older than %s: %v, dpkg: %v", a, b, got, err)
			}
		}
	}
}
