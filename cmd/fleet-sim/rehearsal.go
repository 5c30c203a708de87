package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
)

// sampleInterval is the time between two summary lines.
const sampleInterval = time.Second

// rehearsal is a run of a fleet, and what was seen of it.
type rehearsal struct {
	fleet     *sim.Fleet
	latencies *sim.Latencies
	// stormEvery is the time between two storms; zero for none.
	stormEvery time.Duration

	samples []sample
	// storms is when they were.
	storms []time.Duration
}

// sample is the fleet at one moment of a run.
type sample struct {
	at                                   time.Duration
	enrolled, synced, manifests, reports int
}

// run runs the fleet and prints a summary each second until ctx ends. A device that
// cannot enroll ends the run: its error is the result.
func (r *rehearsal) run(ctx context.Context, out io.Writer) error {
	begin := time.Now()
	ended := make(chan error, 1)
	go func() {
		err := r.fleet.Enroll(ctx)
		if err == nil {
			err = r.fleet.Run(ctx)
		}
		ended <- err
	}()
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	storm := newStorm(r.stormEvery)
	defer storm.Stop()
	for {
		select {
		case <-ticker.C:
			fmt.Fprintln(out, r.sample(time.Since(begin)))
		case <-storm.C:
			r.storms = append(r.storms, time.Since(begin))
			r.fleet.Storm()
		case err := <-ended:
			fmt.Fprintln(out, r.sample(time.Since(begin)))
			if ctx.Err() != nil {
				return nil // what ends with the run is no failure
			}
			return err
		}
	}
}

// newStorm is a ticker that never ticks when there is no time between two storms.
func newStorm(every time.Duration) *time.Ticker {
	t := time.NewTicker(max(every, time.Second))
	if every == 0 {
		t.Stop()
	}
	return t
}

func (r *rehearsal) sample(at time.Duration) sample {
	s := sample{at, r.fleet.Enrolled(), r.fleet.Synced(), r.fleet.Connected(), r.fleet.Reports()}
	r.samples = append(r.samples, s)
	return s
}

// String is a summary line.
func (s sample) String() string {
	return fmt.Sprintf("seconds=%.0f enrolled=%d synced=%d manifests=%d reports=%d", s.at.Seconds(), s.enrolled, s.synced, s.manifests, s.reports)
}

// table prints how long things took.
func (r *rehearsal) table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tcount\tp50\tp90\tp99\tmax\t")
	for _, what := range []string{sim.Enrolled, sim.Synced, sim.Applied} {
		s := r.latencies.Of(what)
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t\n", what, s.Count, show(s.P50), show(s.P90), show(s.P99), show(s.Max))
	}
	_ = w.Flush() // nobody reads it: nothing to do
}

// show rounds a time to three digits or so.
func show(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}
