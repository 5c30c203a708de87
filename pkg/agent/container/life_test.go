package container_test

import (
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

func TestParseHook(t *testing.T) {
	t.Parallel()
	for label, want := range map[string]bool{
		"": false, "{}": false, "null": false, "[": false, `{"exec":["a"],"http":{"Port":1}}`: false,
		`{"exec":["a"]}`: true, `{"http":{"Port":1}}`: true,
		`{"exec":["` + strings.Repeat("a", container.MaxPreStop) + `"]}`: false,
	} {
		if got := container.ParseHook(label); (got != nil) != want {
			t.Errorf("%.40s is read as %+v", label, got)
		}
	}
}

func TestJobHash(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
	if got, ok := container.JobTime(container.JobHash(at, "abc")); !ok || !got.Equal(at) {
		t.Errorf("the time of the run is %v, %v", got, ok)
	}
	for _, hash := range []string{"", "abc", ".abc", "x.abc"} {
		if at, ok := container.JobTime(hash); ok {
			t.Errorf("%q is of a run of %v", hash, at)
		}
	}
}
