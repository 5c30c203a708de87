//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"fleet.nationtech.io/fleet/test/load/fleetload"
	"fleet.nationtech.io/fleet/test/process"
)

// fleetSettleTime is how long a server is left alone with its devices before its
// memory and its processor time are measured.
const fleetSettleTime = 90 * time.Second

// loadResult is what a number of simulated devices cost a server.
type loadResult struct {
	// tree is whose server it was: thisTree or earlierTree.
	tree    string
	devices int
	fleetload.Result
	// alone is the memory before the first device came, apart from the program itself,
	// and together with all of them, in bytes. settled is all that is resident then.
	alone, together, settled int64
	// idle is the share of a core, in percent.
	idle float64
	// store is what the data directory takes, in bytes.
	store int64
}

const thisTree, earlierTree = "now", "before"

func (l loadResult) perSecond() float64 { return float64(l.devices) / l.Enroll.Seconds() }

func (l loadResult) each() float64 { return float64(l.together-l.alone) / float64(l.devices) }

// simulated puts growing numbers of simulated devices on a fresh server each, by
// turns with one of an earlier tree.
func (b *bench) simulated(ctx context.Context) error {
	for _, devices := range b.loads {
		for _, of := range []struct{ tree, bin string }{{earlierTree, b.before}, {thisTree, b.bin}} {
			if of.bin == "" || of.tree == earlierTree && devices > b.mostBefore {
				continue
			}
			fmt.Fprintf(b.out, "--> %d devices, %s\n", devices, of.tree)
			if err := withDir(func(dir string) error { return b.load(ctx, dir, of.tree, of.bin, devices) }); err != nil {
				return fmt.Errorf("%d devices on the server of %s: %w", devices, of.bin, err)
			}
		}
	}
	return nil
}

func (b *bench) load(ctx context.Context, dir, tree, bin string, devices int) error {
	s, err := process.StartServer(ctx, process.Config{Binary: filepath.Join(bin, "fleet-server"), DataDir: dir})
	if err != nil {
		return err
	}
	l := loadResult{tree: tree, devices: devices}
	load := fleetload.Config{
		Groups: groups(devices), Watch: 5 * time.Second,
		Progress: func(line string) { fmt.Fprintln(b.out, line) },
		Settled:  func(ctx context.Context) error { return b.settle(ctx, s, &l) },
	}
	if err = pause(ctx, settleTime); err == nil {
		l.alone, err = process.Anonymous(s.PID())
	}
	if err == nil {
		l.Result, err = load.Run(ctx, s)
	}
	err = errors.Join(err, s.Stop())
	if err == nil {
		l.store, err = sizeOf(dir)
	}
	if err != nil {
		return err
	}
	b.report.loads = append(b.report.loads, l)
	if tree == thisTree {
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

const mostForEach, fewestPerSecond = 75e3, 150

// compare adds what is measured of a load to the figures that have a target.
func (b *bench) compare(l loadResult) {
	t, of := targets[l.devices], fmt.Sprintf("%d simulated devices: ", l.devices)
	if t.exact > 0 {
		b.report.add(of+"apply until all aggregates are exact", seconds(l.Exact), "≤ "+seconds(t.exact), l.Exact <= t.exact)
		b.report.add(of+"memory of the server for each", fmt.Sprintf("%.0f KB", l.each()/1e3), "≤ 75 KB", l.each() <= mostForEach)
		b.report.add(of+"enrollments", fmt.Sprintf("%.0f a second", l.perSecond()), "≥ 150 a second", l.perSecond() >= fewestPerSecond)
	}
	if t.idle > 0 {
		b.report.add(of+"processor while nothing changes", fmt.Sprintf("%.2f %% of a core", l.idle), fmt.Sprintf("≤ %.1f %%", t.idle), l.idle <= t.idle)
	}
	if t.store > 0 {
		b.report.add(of+"data directory", fmt.Sprintf("%.0f MB", float64(l.store)/1e6), fmt.Sprintf("≤ %d MB", t.store), l.store <= t.store*1e6)
	}
}

// settle measures a server whose devices are connected while nothing changes.
func (b *bench) settle(ctx context.Context, s *process.Server, l *loadResult) error {
	before, after, err := whileIdle(ctx, b, fleetSettleTime, func() (time.Duration, error) { return process.CPU(s.PID()) })
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

// sizeOf is what the files below a directory take, in bytes.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	})
	return size, err
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
