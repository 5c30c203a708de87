// Package parts runs the parts of a process: they start one after the other and
// stop in the reverse order, and the first that ends by itself is a failure of all.
package parts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Parts are running parts, in the order of their start.
type Parts struct {
	failed chan error
	log    *slog.Logger
	stops  []namedStop
}

var errEnded = errors.New("it ended by itself")

type namedStop struct {
	name string
	stop func() error
}

// New returns parts of which none runs yet.
func New(log *slog.Logger) *Parts {
	return &Parts{failed: make(chan error, 1), log: log}
}

// Failed gets the name and error of the first part that ended by itself.
func (p *Parts) Failed() <-chan error { return p.failed }

// OnStop adds something to undo at the end.
func (p *Parts) OnStop(name string, stop func() error) {
	p.stops = append(p.stops, namedStop{name, stop})
}

// Run runs a part until Stop. A part that ends before is a failure of all.
func (p *Parts) Run(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := run(ctx)
		switch {
		case ctx.Err() == nil:
			p.fail(fmt.Errorf("%s: %w", name, cmp.Or(err, errEnded)))
			err = nil // reported already
		default:
			err = withoutCanceled(err) // stopped while it was starting
		}
		done <- err
	}()
	p.OnStop(name, func() error {
		cancel()
		return <-done
	})
}

// withoutCanceled leaves out of what a part says at its end that it was told to end.
// What it says besides counts.
func withoutCanceled(err error) error {
	if !errors.Is(err, context.Canceled) {
		return err
	}
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return nil
	}
	var left []error
	for _, e := range joined.Unwrap() {
		left = append(left, withoutCanceled(e))
	}
	return errors.Join(left...)
}

func (p *Parts) fail(err error) {
	select {
	case p.failed <- err:
	default: // a consequence of the first failure
	}
}

// Stop stops the parts in the reverse order of their start.
func (p *Parts) Stop() error {
	var errs []error
	for _, s := range slices.Backward(p.stops) {
		begin := time.Now()
		errs = append(errs, s.stop())
		p.log.Debug("stopped", "part", s.name, "took", time.Since(begin))
	}
	p.stops = nil
	return errors.Join(errs...)
}
