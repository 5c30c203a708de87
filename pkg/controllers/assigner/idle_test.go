package assigner

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"fleet.nationtech.io/fleet/pkg/assignment"
)

// Where nothing is to be rendered, rendering takes nothing of the processor: it waits. A loop
// that never does would never end this test.
func TestRenderingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := assignment.NewTable(nil)
		c := &Controller{
			table: table, due: make(chan struct{}, 1), projector: newProjector(nil, table, nil, slog.New(slog.DiscardHandler)),
			status: newStatusWriter(nil, nil, table, nil, nil, slog.New(slog.DiscardHandler)),
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.render(ctx) }()
		for range 3 {
			synctest.Wait()
			c.apply(assignment.Changes{})
		}
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
