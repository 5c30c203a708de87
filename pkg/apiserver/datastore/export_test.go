package datastore

import (
	"context"
	"log/slog"
	"time"
)

// OpenCompacting is Open with compactions so often, that keep so many revisions.
func OpenCompacting(dir string, interval time.Duration, retain int64) (*Datastore, error) {
	return open(dir, nil, slog.New(slog.DiscardHandler), history{interval: interval, retain: retain})
}

// Shrink gives back free space now.
func (d *Datastore) Shrink(ctx context.Context) error { return d.upkeep.shrink(ctx) }

// SQLDriver is the name of the driver of this build.
var SQLDriver = sqlDriver
