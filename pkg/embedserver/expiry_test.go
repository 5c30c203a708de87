package embedserver_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/embedserver"
)

// checks gets the times at which connections were looked at.
type checks chan time.Time

func (c checks) DisconnectExpired(now time.Time) []string {
	c <- now
	return []string{"edge-1"}
}

func (c checks) DisconnectUnproven(time.Time) []string { return []string{"edge-2"} }

// TestExpiryIsByTheServersClock: a machine's clock that jumps years ahead must
// not drop every device.
func TestExpiryIsByTheServersClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		believed := time.Now().AddDate(-10, 0, 0)
		ctx, cancel := context.WithCancel(t.Context())
		looked, ended := make(checks), make(chan error)
		go func() {
			ended <- embedserver.DropExpired(looked, func() time.Time { return believed }, logger(t))(ctx)
		}()
		for range 2 {
			if at := <-looked; !at.Equal(believed) {
				t.Errorf("looked at %s, want %s", at, believed)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
