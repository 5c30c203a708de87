// Package wait waits, in tests and benchmarks, for what other goroutines and
// processes bring about.
package wait

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Until calls check every interval until it returns nil. When ctx ends or the
// timeout is over it returns check's last error.
func Until(ctx context.Context, timeout, interval time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// For is Until for tests: it ends the test that waited in vain. The timeout
// bounds a hang, it measures nothing.
func For(t testing.TB, what string, timeout, interval time.Duration, check func() error) {
	t.Helper()
	if err := Until(t.Context(), timeout, interval, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
