package version_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

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

func TestBuiltAtIsATime(t *testing.T) {
	if at := version.BuiltAt(); at.Before(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("built at %s", at)
	}
	defer func(built string) { version.Built = built }(version.Built)
	for built, want := range map[string]string{"2027-01-02T03:04:05+01:00": "2027-01-02T02:04:05Z", "unknown": "2026-11-01T00:00:00Z"} {
		version.Built = built
		if got := version.BuiltAt().Format(time.RFC3339); got != want {
			t.Errorf("%q was built at %s, want %s", built, got, want)
		}
	}
}
