package remotebus

import "context"

// Sweep compares connections at once.
func (b *Bus) Sweep(ctx context.Context) error { return b.sweep(ctx) }
