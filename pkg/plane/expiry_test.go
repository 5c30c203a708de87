package plane_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/plane"
)

// checks gets the times at which connections were looked at.
type checks struct{ at chan time.Time }

func (c checks) DropExpired(now time.Time) []string {
	c.at <- now
	return []string{"edge-1"}
}

func (c checks) DropUnproven(time.Duration) []string { return []string{"edge-2"} }

// TestExpiryIsByTheServersClock: a machine's clock that jumps years ahead must
// not drop every device.
func TestExpiryIsByTheServersClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		believed := time.Now().AddDate(-10, 0, 0)
		ctx, cancel := context.WithCancel(t.Context())
		looked, ended := checks{at: make(chan time.Time)}, make(chan error)
		go func() {
			ended <- plane.DropExpired(looked, func() time.Time { return believed }, slog.New(slog.NewTextHandler(t.Output(), nil)))(ctx)
		}()
		for range 2 {
			if at := <-looked.at; !at.Equal(believed) {
				t.Errorf("looked at %s, want %s", at, believed)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
