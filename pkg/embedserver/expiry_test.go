package embedserver_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/embedserver"
)

// checks gets the times at which connections were looked at.
type checks struct {
	bus.Connections // nil: the rest is not called

	at chan time.Time
}

func (c checks) DropExpired(now time.Time) []string {
	c.at <- now
	return []string{"edge-1"}
}

func (c checks) DropUnproven(time.Time) []string { return []string{"edge-2"} }

// TestExpiryIsByTheServersClock: a machine's clock that jumps years ahead must
// not drop every device.
func TestExpiryIsByTheServersClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		believed := time.Now().AddDate(-10, 0, 0)
		ctx, cancel := context.WithCancel(t.Context())
		looked, ended := checks{at: make(chan time.Time)}, make(chan error)
		go func() {
			ended <- embedserver.DropExpired(looked, func() time.Time { return believed }, logger(t))(ctx)
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
