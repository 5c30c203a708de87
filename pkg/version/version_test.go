package version_test

import (
	"runtime"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/version"
)

func TestStringNamesBuildAndPlatform(t *testing.T) {
	t.Parallel()
	got := version.String()
	for _, want := range []string{version.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH} {
		if !strings.Contains(got, want) {
			t.Errorf("String() = %q, lacks %q", got, want)
		}
	}
}
