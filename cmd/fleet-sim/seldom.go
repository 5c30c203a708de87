package main

import (
	"context"
	"log/slog"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// Lines a second of the log, and how many at once: in a storm each of ten thousand devices
// has something to say, and most of them the same.
const (
	logRate  = 2
	logBurst = 20
)

// seldom is a handler of a log that leaves out what exceeds a rate, and says how much it
// left out.
type seldom struct {
	slog.Handler

	limiter *rate.Limiter
	left    *atomic.Int64
}

func newSeldom(h slog.Handler) seldom {
	return seldom{Handler: h, limiter: rate.NewLimiter(logRate, logBurst), left: new(atomic.Int64)}
}

// Handle implements slog.Handler.
func (s seldom) Handle(ctx context.Context, r slog.Record) error {
	if !s.limiter.AllowN(r.Time, 1) {
		s.left.Add(1)
		return nil
	}
	if left := s.left.Swap(0); left > 0 {
		r.AddAttrs(slog.Int64("lines_left_out_before", left))
	}
	return s.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (s seldom) WithAttrs(attrs []slog.Attr) slog.Handler {
	s.Handler = s.Handler.WithAttrs(attrs)
	return s
}

// WithGroup implements slog.Handler.
func (s seldom) WithGroup(name string) slog.Handler {
	s.Handler = s.Handler.WithGroup(name)
	return s
}
