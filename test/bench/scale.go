//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/test/load/fleetload"
	"fleet.nationtech.io/fleet/test/process"
)

// loadResult is what a number of simulated devices cost a server.
type loadResult struct {
	tree    string // thisTree or earlierTree
	devices int
	fleetload.Result
	// alone is the memory before the first device came, apart from the program itself,
	// and together with all of them, in bytes. settled is all that is resident then.
	alone, together, settled int64
	// idle is the share of a core, in percent.
	idle float64
	// store is what the store takes on disk, with its WAL, and rest what else is in the data
	// directory, in bytes.
	store, rest int64
	// came is when the last device came, storeAfter how much later the store was measured.
	came       time.Time
	storeAfter time.Duration
}

func (l loadResult) perSecond() float64 { return float64(l.devices) / l.Enroll.Seconds() }

func (l loadResult) each() float64 { return float64(l.together-l.alone) / float64(l.devices) }

// simulated puts growing numbers of simulated devices on a fresh server each, by
// turns with one of an earlier tree.
func (b *bench) simulated(ctx context.Context) error {
	for _, devices := range b.loads {
		what := fmt.Sprintf("%d simulated devices", devices)
		err := b.eachTree(ctx, what, devices, func(t tree) error {
			return withDir(func(dir string) error { return b.load(ctx, dir, t, devices) })
		})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

func (b *bench) load(ctx context.Context, dir string, t tree, devices int) error {
	s, err := process.StartServer(ctx, process.Config{Binary: t.server(), DataDir: dir})
	if err != nil {
		return err
	}
	l := loadResult{tree: t.name, devices: devices}
	load := fleetload.Config{
		Groups: groups(devices), Watch: 5 * time.Second,
		Progress: func(line string) { fmt.Fprintln(b.out, line) },
		Labelled: func() error {
			l.came = time.Now()
			return nil
		},
		Settled: func(ctx context.Context) error {
			if err := b.settle(ctx, s, &l); err != nil {
				return err
			}
			return b.measureStore(ctx, dir, &l)
		},
	}
	if err = pause(ctx, settleTime); err == nil {
		l.alone, err = process.Anonymous(s.PID())
	}
	if err == nil {
		l.Result, err = load.Run(ctx, s)
	}
	if err = errors.Join(err, s.Stop()); err != nil {
		return err
	}
	b.report.loads = append(b.report.loads, l)
	if t.name == thisTree {
		b.compare(l)
	}
	return nil
}

// groups are how many devices each of three Deployments selects: half, a quarter and a
// quarter of them.
func groups(devices int) []int { return []int{devices - devices/4*2, devices / 4, devices / 4} }

// targets of servers with some number of devices; 0 is none.
var targets = map[int]struct {
	exact time.Duration
	// idle is in percent of a core.
	idle float64
	// store is in MB.
	store int64
}{
	1000: {exact: 1200 * time.Millisecond, idle: 0.7},
	4000: {exact: 2500 * time.Millisecond, idle: 2, store: 60},
	8000: {exact: 5 * time.Second},
}

// leastOfFirst is the part of the first devices' rate that the last ones enroll at, at least: to
// a tenth, two rates of one machine are the same.
const mostForEach, fewestPerSecond, leastOfFirst = 75e3, 150, 0.9

// compare adds what is measured of a load to the figures that have a target.
func (b *bench) compare(l loadResult) {
	t, of := targets[l.devices], fmt.Sprintf("%d simulated devices: ", l.devices)
	if t.exact > 0 {
		b.report.add(of+"apply until all aggregates are exact", seconds(l.Exact), "≤ "+seconds(t.exact), l.Exact <= t.exact)
		b.report.add(of+"memory of the server for each", fmt.Sprintf("%.0f KB", l.each()/1e3), "≤ 75 KB", l.each() <= mostForEach)
		b.report.add(of+"enrollments", fmt.Sprintf("%.0f a second", l.perSecond()), "≥ 150 a second", l.perSecond() >= fewestPerSecond)
		b.report.add(fmt.Sprintf("%senrollments, the last %d against the first %[2]d", of, l.Part), fmt.Sprintf("%.0f a second against %.0f", l.LastRate, l.FirstRate),
			fmt.Sprintf("≥ %.0f %%", 100*leastOfFirst), l.LastRate >= leastOfFirst*l.FirstRate)
	}
	if t.idle > 0 {
		b.report.add(of+"processor while nothing changes", fmt.Sprintf("%.2f %% of a core", l.idle), fmt.Sprintf("≤ %.1f %%", t.idle), l.idle <= t.idle)
	}
	if t.store > 0 {
		after := fmt.Sprintf(", %.0f minutes after the last came", l.storeAfter.Minutes())
		b.report.add(of+"store on disk with its WAL"+after, megabytes(l.store), fmt.Sprintf("≤ %d MB", t.store), l.store <= t.store*1e6)
		b.report.add(of+"what else is in the data directory"+after, megabytes(l.rest), "", true)
	}
}

// settle measures a server whose devices are connected while nothing changes.
func (b *bench) settle(ctx context.Context, s *process.Server, l *loadResult) error {
	before, after, err := whileIdle(ctx, b, settleTime, func() (time.Duration, error) { return process.CPU(s.PID()) })
	if err != nil {
		return err
	}
	l.idle = b.share(after - before)
	if l.together, err = process.Anonymous(s.PID()); err != nil {
		return err
	}
	l.settled, err = process.RSS(s.PID())
	fmt.Fprintf(b.out, "settled: %d MB, %.0f KB a device, %.2f %% of a core\n", l.settled/1e6, l.each()/1e3, l.idle)
	return err
}

// measureStore measures the data directory of a server that runs, when the last device came so
// long ago as was asked for.
func (b *bench) measureStore(ctx context.Context, dir string, l *loadResult) (err error) {
	if targets[l.devices].store > 0 {
		if err := pause(ctx, time.Until(l.came.Add(b.storeAfter))); err != nil {
			return err
		}
	}
	l.storeAfter = time.Since(l.came)
	l.store, l.rest, err = sizeOf(dir)
	fmt.Fprintf(b.out, "store: %s, and %s beside it, %s after the last device came\n", megabytes(l.store), megabytes(l.rest), l.storeAfter.Round(time.Second))
	return err
}

// storeFile is the store in a data directory; SQLite keeps its WAL and its index beside it.
const storeFile = "state.db"

// sizeOf is what the store takes, and what the other files of a data directory do, in bytes.
func sizeOf(dir string) (store, rest int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.HasPrefix(path, filepath.Join(dir, storeFile)) {
			store += info.Size()
		} else {
			rest += info.Size()
		}
		return nil
	})
	if err == nil && store == 0 {
		err = fmt.Errorf("there is no %s in %s", storeFile, dir)
	}
	return store, rest, err
}

// of are the results of one tree, by number of devices.
func (r *report) of(tree string) (loads []loadResult) {
	for _, l := range r.loads {
		if l.tree == tree {
			loads = append(loads, l)
		}
	}
	return loads
}

// most is the largest number of devices.
func (r *report) most() (devices int) {
	for _, l := range r.loads {
		devices = max(devices, l.devices)
	}
	return devices
}
