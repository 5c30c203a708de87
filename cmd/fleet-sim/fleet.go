package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// summaryInterval is the time between two summary lines.
const summaryInterval = time.Second

// counters count what all devices did.
type counters struct {
	enrolled, manifests, bodies, reports, failed, errors atomic.Int64
}

// fleet is all simulated devices.
type fleet struct {
	options  *options
	log      *slog.Logger
	devices  []*device
	counters counters
}

func newFleet(o *options, tokens []string, log *slog.Logger) *fleet {
	f := &fleet{options: o, log: log}
	for i := range o.devices {
		group := groupOf(i, o.groupSizes)
		d := &device{
			id:       fmt.Sprintf("%s-%d", o.namePrefix, i+1),
			token:    tokens[group%len(tokens)],
			options:  o,
			counters: &f.counters,
			log:      log,
		}
		if group < len(o.groupSizes) {
			d.labels = map[string]string{o.groupLabel: fmt.Sprintf("g%d", group+1)}
		}
		f.devices = append(f.devices, d)
	}
	return f
}

// groupOf returns the index of a device's group: len(sizes) for none.
func groupOf(device int, sizes []int) int {
	for i, size := range sizes {
		if device < size {
			return i
		}
		device -= size
	}
	return len(sizes)
}

// run runs the devices until ctx ends. A device that cannot enroll ends the
// run: its error is the result.
func (f *fleet) run(ctx context.Context, out io.Writer) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	// The devices go on until the last summary is printed.
	devices, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var parts sync.WaitGroup
	startups := make(chan struct{}, f.options.startups)
	for _, d := range f.devices {
		parts.Go(func() {
			if err := d.run(devices, startups); err != nil {
				fail(fmt.Errorf("device %s: %w", d.id, err))
			}
		})
	}
	f.summarize(ctx, out)
	stop()
	parts.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// summarize prints a line every second until ctx ends, and a last one.
func (f *fleet) summarize(ctx context.Context, out io.Writer) {
	ticker := time.NewTicker(summaryInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
		fmt.Fprintln(out, f.summary())
	}
}

func (f *fleet) summary() string {
	connected := 0
	for _, d := range f.devices {
		if d.connected() {
			connected++
		}
	}
	c := &f.counters
	return fmt.Sprintf("devices=%d enrolled=%d connected=%d manifests=%d bodies=%d reports=%d failed=%d errors=%d",
		len(f.devices), c.enrolled.Load(), connected, c.manifests.Load(), c.bodies.Load(), c.reports.Load(), c.failed.Load(), c.errors.Load())
}
