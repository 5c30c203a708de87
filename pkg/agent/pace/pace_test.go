package pace_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/pace"
)

func TestLinesThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"", "1", "x", "8:00-18:00 1Mi", "08:00-24:00 1Mi", "1Gi", "-5Ki", "08:00-18:00"} {
		if _, err := pace.Parse([]string{"1Mi", line}); err == nil || !strings.HasPrefix(err.Error(), "[1]: ") {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// The first line that covers a time counts, also over midnight; without one there is no limit.
func TestLimitsByTheTimeOfDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // which begins at midnight UTC
		limits, err := pace.Parse([]string{"22:00-06:00 64Ki", "06:00-12:00 32Ki"})
		if err != nil {
			t.Fatal(err)
		}
		p := pace.New(limits)
		time.Sleep(time.Until(time.Date(2000, 1, 3, 0, 0, 0, 0, time.Local)))
		for _, tc := range []struct {
			at   time.Duration
			want time.Duration
		}{{time.Hour, 16 * time.Second}, {7 * time.Hour, 32 * time.Second}, {13 * time.Hour, 0}, {23 * time.Hour, 16 * time.Second}} {
			time.Sleep(time.Until(time.Date(2000, 1, 3, 0, 0, 0, 0, time.Local).Add(tc.at)))
			began := time.Now()
			for range 33 { // the first piece passes at once
				if err := p.Wait(t.Context(), pace.Piece); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(began).Round(time.Second); took != tc.want {
				t.Errorf("at %v, a MiB takes %v, want %v", tc.at, took, tc.want)
			}
		}
	})
}
