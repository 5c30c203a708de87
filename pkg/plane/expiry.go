package plane

import (
	"context"
	"log/slog"
	"time"
)

const (
	// expiryInterval is how often connections with an expired certificate are
	// looked for.
	expiryInterval = time.Minute
	// provingTime is how long a connection may last before its session has proven that
	// it is the device. One that takes over from another waits for roster.Grace.
	provingTime = 2 * time.Minute
)

// dropper is a roster.
type dropper interface {
	DropExpired(now time.Time) (devices []string)
	DropUnproven(after time.Duration) (devices []string)
}

// dropExpired ends, every minute, connections whose certificate ran out by the
// server's own clock, since that of the machine may be wrong, and those that did not
// prove themselves.
func dropExpired(d dropper, now func() time.Time, log *slog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		tick := time.NewTicker(expiryInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				for _, name := range d.DropExpired(now()) {
					log.Warn("device dropped: its certificate has expired", "device", name)
				}
				for _, name := range d.DropUnproven(provingTime) {
					log.Warn("connection dropped: it has the device's key, and has not proven that it is the device", "device", name)
				}
			}
		}
	}
}
