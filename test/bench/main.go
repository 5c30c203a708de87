//go:build linux

// Command bench measures the figures that fleet promises, on the binaries as
// shipped and a real device, prints them as a table and writes them to
// docs/benchmarks.md with the method and the machine.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of all measurements.
type bench struct {
	out io.Writer
	// bin holds the binaries, docs the report.
	bin, docs string
	// repeat is how often what is a median is measured.
	repeat int
	// idle is how long idle processor time is measured for.
	idle time.Duration
	// before holds the binaries of an earlier tree to compare with; may be empty.
	before string
	// loads are the numbers of simulated devices, of which an earlier tree gets those
	// up to mostBefore.
	loads      []int
	mostBefore int
	// crowded is how many devices are connected while lists are asked for, and when the
	// server starts again; registered how many Devices there are in another store.
	crowded, registered int
	// storeAfter is how long after the last device the store is measured, at the earliest.
	storeAfter time.Duration

	report report
}

func run(ctx context.Context, args []string, out io.Writer) error {
	b := &bench{out: out}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&b.bin, "bin", "bin", "directory of the binaries")
	f.StringVar(&b.docs, "docs", "docs", "directory to write benchmarks.md and benchmarks.svg to")
	only := f.String("only", "", "measure only the steps whose names contain this, and write no report")
	f.IntVar(&b.repeat, "repeat", 9, "how often to measure what is shown as a median")
	f.StringVar(&b.before, "before", "", "directory of the binaries of an earlier tree, to put the same devices on")
	f.IntVar(&b.mostBefore, "most-before", 4000, "how many devices an earlier tree gets at most")
	loads := f.String("loads", "100,1000,4000,8000", "numbers of simulated devices")
	f.IntVar(&b.crowded, "crowd", 4000, "how many devices are connected while all are listed, and come back after a restart")
	f.IntVar(&b.registered, "registered", 10_000, "how many Devices a server that starts has")
	f.DurationVar(&b.storeAfter, "store-after", 0, "measure the store so long after the last device came, where that has a target; at the earliest, when its memory was measured")
	f.DurationVar(&b.idle, "idle", time.Minute, "how long to measure idle processor time for")
	if err := f.Parse(args); err != nil {
		return err
	}
	for load := range strings.SplitSeq(*loads, ",") {
		n, err := strconv.Atoi(load)
		if err != nil || n < 4 {
			return fmt.Errorf("-loads: %q is no number of devices from 4 on", load)
		}
		b.loads = append(b.loads, n)
	}
	var missing error
	for _, step := range []struct {
		what string
		run  func(context.Context) error
	}{
		{"starting the server", b.starts},
		{"a real device", b.device},
		{"probes", b.probes},
		{"applications", b.applications},
		{"the door", b.door},
		{"the core", b.core},
		{"a million in memory", b.million},
		{"many simulated ones", b.simulated},
		{"a crowd", b.crowd},
		{"many registered ones", b.readyWithMany},
		{"a slow medium", b.slowMedium},
	} {
		if !strings.Contains(step.what, *only) {
			continue
		}
		fmt.Fprintf(out, "==> %s\n", step.what)
		if err := step.run(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// The others took long enough not to be lost.
			b.notMeasured(step.what, err)
			missing = errors.Join(missing, fmt.Errorf("%s: %w", step.what, err))
		}
	}
	if *only != "" {
		fmt.Fprintf(out, "\n%s\n", b.report.table())
		return missing
	}
	if err := b.report.write(b.docs); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s\nwritten to %s\n", b.report.table(), filepath.Join(b.docs, reportName))
	return missing
}

// median of an odd number of values; the lower one of the middle two otherwise.
func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}
