package embedserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// parts are the running parts of the server, in the order of their start.
type parts struct {
	// failed gets the name and error of the first part that ended by itself.
	failed chan error
	log    *slog.Logger
	stops  []namedStop
}

var errEnded = errors.New("it ended by itself")

type namedStop struct {
	name string
	stop func() error
}

func newParts(log *slog.Logger) *parts { return &parts{failed: make(chan error, 1), log: log} }

// onStop adds something to undo at the end.
func (p *parts) onStop(name string, stop func() error) {
	p.stops = append(p.stops, namedStop{name, stop})
}

// run runs a part until stop. A part that ends before is a failure of the
// whole server.
func (p *parts) run(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := run(ctx)
		switch {
		case ctx.Err() == nil:
			p.fail(fmt.Errorf("%s: %w", name, cmp.Or(err, errEnded)))
			err = nil // reported already
		case errors.Is(err, context.Canceled):
			err = nil // stopped while it was starting
		}
		done <- err
	}()
	p.onStop(name, func() error {
		cancel()
		return <-done
	})
}

func (p *parts) fail(err error) {
	select {
	case p.failed <- err:
	default: // a consequence of the first failure
	}
}

// stop stops the parts in the reverse order of their start.
func (p *parts) stop() error {
	var errs []error
	for _, s := range slices.Backward(p.stops) {
		begin := time.Now()
		errs = append(errs, s.stop())
		p.log.Debug("stopped", "part", s.name, "took", time.Since(begin))
	}
	p.stops = nil
	return errors.Join(errs...)
}
