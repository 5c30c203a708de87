//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The most that a change may take among 10,000 devices and 1,000 Deployments, and among
// 1,000,000 devices and 10,000 Deployments.
const (
	mostChange, mostCount = 50 * time.Microsecond, 5 * time.Microsecond
	mostRetarget          = 150 * time.Millisecond
	mostMillion           = 1500.0 // MB
)

// core measures what a change costs the table of devices and Deployments.
func (b *bench) core(ctx context.Context) error {
	found, err := benchmarks(ctx, nil, "-bench=^Benchmark(Device|Report)$/(mention|site|running|failing)", "-benchtime=0.3s", fmt.Sprint("-count=", b.repeat))
	if err != nil {
		return err
	}
	const of = "10000 devices and 1000 Deployments in the core: "
	for _, f := range []struct {
		name, what string
		most       time.Duration
	}{
		{"Device/a_label_that_no_Deployment_mentions", "a label of one device changed that no Deployment mentions", mostChange},
		{"Device/a_label_that_200_Deployments_mention", "a label of one device changed that 200 Deployments mention", mostChange},
		{"Device/another_site_with_other_50_Deployments", "a label of one device changed, for which 50 Deployments leave it and 50 come", mostChange},
		{"Report/running", "one report counted", mostCount},
		{"Report/failing", "one report of a failure counted", mostCount},
	} {
		if err := b.addTime(found, of, f.name, f.what, f.most); err != nil {
			return err
		}
	}
	return nil
}

// leastFree is what a million devices need while they are measured, in bytes.
const leastFree = 6e9

// million measures the core with a million devices, on a machine that has the memory.
func (b *bench) million(ctx context.Context) error {
	free, err := available()
	if err != nil {
		return err
	}
	if free < leastFree {
		return fmt.Errorf("it needs %.0f GB of memory, and %.1f are free", leastFree/1e9, float64(free)/1e9)
	}
	return b.millions(ctx, 1)
}

func (b *bench) millions(ctx context.Context, millions float64) error {
	found, err := benchmarks(ctx, []string{fmt.Sprint("FLEET_BENCH_MILLION=", millions)}, "-bench=^BenchmarkMillion$", "-benchtime=10x", "-timeout=1h")
	if err != nil {
		return err
	}
	of := fmt.Sprintf("%.0f devices and %.0f Deployments in the core, 50 on each device: ", millions*1e6, millions*1e4)
	memory, err := found.median("Million/memory", "MB")
	if err != nil {
		return err
	}
	b.report.add(of+"memory", fmt.Sprintf("%.0f MB", memory), fmt.Sprintf("≤ %.0f MB", mostMillion), memory <= mostMillion)
	if err := b.addTime(found, of, "Million/a_Deployment_gets_another_site_of_5000_devices", "a Deployment gets another target, of 5000 devices", mostRetarget); err != nil {
		return err
	}
	return b.addTime(found, of, "Million/a_Deployment_gets_all_devices_or_none", "a Deployment gets all devices, or loses them", 0)
}

// addTime adds how long an operation of a benchmark took; most is 0 without a target.
func (b *bench) addTime(found results, of, name, what string, most time.Duration) error {
	ns, err := found.median(name, "ns/op")
	if err != nil {
		return err
	}
	target := ""
	if most > 0 {
		target = "≤ " + short(most)
	}
	took := time.Duration(ns)
	b.report.add(of+what, short(took), target, most == 0 || took <= most)
	return nil
}

// short is a time from a microsecond to seconds.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.3g µs", float64(d)/float64(time.Microsecond))
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/float64(time.Millisecond))
	}
	return seconds(d)
}

// results are what benchmarks measured, by their names and their units.
type results map[string]map[string][]float64

// benchmarks runs benchmarks of the core.
func benchmarks(ctx context.Context, env []string, args ...string) (results, error) {
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"test", "-run=^$"}, args, []string{"./pkg/assignment"})...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("running the benchmarks of the core: %w: %s", err, out)
	}
	return parseBenchmarks(string(out)), nil
}

// parseBenchmarks reads what go test prints: "BenchmarkName-2  1000  12.5 ns/op  3 MB".
func parseBenchmarks(out string) results {
	found := results{}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if i := strings.LastIndex(name, "-"); i > 0 { // the number of processors
			name = name[:i]
		}
		for pair := range slices.Chunk(fields[2:], 2) {
			value, err := strconv.ParseFloat(pair[0], 64)
			if err != nil || len(pair) < 2 {
				continue
			}
			if found[name] == nil {
				found[name] = map[string][]float64{}
			}
			found[name][pair[1]] = append(found[name][pair[1]], value)
		}
	}
	return found
}

func (r results) median(name, unit string) (float64, error) {
	values := r[name][unit]
	if len(values) == 0 {
		return 0, fmt.Errorf("no %s was measured by Benchmark%s", unit, name)
	}
	return median(values), nil
}

// available is the memory that programs can have without swapping, in bytes.
func available() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the kernel does not say how much memory is free")
}
