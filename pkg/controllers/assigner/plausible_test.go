package assigner_test

import (
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
)

func TestClocksOfDevicesAreBounded(t *testing.T) {
	t.Parallel()
	received := time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct{ at, want time.Time }{
		"before":           {received.Add(-time.Hour), received.Add(-time.Hour)},
		"ahead":            {received.Add(time.Hour), received},
		"none":             {time.Time{}, time.Unix(0, 0)},
		"beyond the last":  {time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC), received},
		"before the first": {time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(0, 0)},
	} {
		if got := assigner.Plausible(tc.at, received); !got.Equal(tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
