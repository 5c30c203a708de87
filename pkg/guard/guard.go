// Package guard lets a loop outlive a mistake of the program: a panic in one of its
// steps is counted, reported with its stack once, and is an error of that step
// alone. Every loop of the server imports it.
package guard

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// Panics counts the panics that the loops of a process survived. It is safe for
// concurrent use.
type Panics struct {
	counter *prometheus.CounterVec
	// places are where panics came from that were reported.
	places sync.Map
}

// NewPanics returns a count of none.
func NewPanics() *Panics {
	return &Panics{counter: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fleet_panics_total", Help: "Mistakes of the program that one step of a loop was the victim of rather than the process.",
	}, []string{"loop"})}
}

// Collectors are the metrics for a registry.
func (p *Panics) Collectors() []prometheus.Collector { return []prometheus.Collector{p.counter} }

// Loop returns the guard of a loop, whose count is there, with 0, from now on. A nil
// Panics counts nothing.
func (p *Panics) Loop(name string, log *slog.Logger) *Guard {
	if p == nil {
		p = NewPanics()
	}
	return &Guard{name: name, log: log, panics: p, counter: p.counter.WithLabelValues(name)}
}

// Guard guards the steps of one loop. It is safe for concurrent use.
type Guard struct {
	name    string
	log     *slog.Logger
	panics  *Panics
	counter prometheus.Counter
}

// Try calls a step and returns its error, which a panic becomes. The loop does what
// it does after any other error: it backs off. about says, as for a Logger, what the
// step worked on.
func (g *Guard) Try(step func() error, about ...any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = g.took(p, about)
		}
	}()
	return step()
}

// Do calls a step that has no error to return, and nothing to try again.
func (g *Guard) Do(step func(), about ...any) {
	_ = g.Try(func() error { step(); return nil }, about...) // reported
}

// Keep runs a loop until it returns, and again, after a pause that grows, whenever a
// panic ends it. Pauses begin anew after a run that was longer than any of them.
func (g *Guard) Keep(ctx context.Context, loop func(context.Context) error) error {
	pauses := backoff.NewExponentialBackOff()
	for {
		panicked, began := true, time.Now()
		err := g.Try(func() error {
			err := loop(ctx)
			panicked = false
			return err
		})
		if !panicked {
			return err
		}
		if time.Since(began) > pauses.MaxInterval {
			pauses.Reset()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pauses.NextBackOff()):
		}
	}
}

// Handler returns a handler that calls another one. When that panics, the answer ends where it
// is, as the server of the handler would have it, but with a count and a report.
func (g *Guard) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch p := recover(); p {
			case nil:
				return
			case http.ErrAbortHandler: // on purpose
			default:
				_ = g.took(p, []any{"path", r.URL.Path}) // reported
			}
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, r)
	})
}

// took is called by what recovered from a panic.
func (g *Guard) took(p any, about []any) error {
	g.counter.Inc()
	// Its stack says nothing new the next time, and it may come back for ever.
	if _, reported := g.panics.places.LoadOrStore(place(), true); !reported {
		g.log.With(about...).Error("a mistake in the program", "loop", g.name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
	return fmt.Errorf("panic: %v", p)
}

// place is the line of the program that a deferred function recovers a panic of.
func place() string {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(0, callers)])
	for panicking := false; ; {
		frame, more := frames.Next()
		if panicking && !strings.HasPrefix(frame.Function, "runtime.") || !more {
			return fmt.Sprintf("%s:%d", frame.File, frame.Line)
		}
		panicking = panicking || frame.Function == "runtime.gopanic"
	}
}
