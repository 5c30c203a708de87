//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// doorReports is how many reports the devices of the door's benchmark send together.
const doorReports = 3000

var doorResult = regexp.MustCompile(`devices=(\d+)\S*\s.*?([\d.]+) µs/median\s+([\d.]+) µs/p99`)

// doorBenchmark measures a door; an earlier tree is measured by the present one.
const doorBenchmark = "pkg/deviceapi/bench_test.go"

// door measures how long devices wait for an answer that report all at the same time,
// in one process with the server's part, by turns with that of an earlier tree.
func (b *bench) door(ctx context.Context) error {
	type waits struct{ median, p99 []time.Duration }
	var order []string
	found := map[string]*waits{}
	trees := []struct{ of, dir string }{{"", "."}}
	if b.before != "" {
		before := filepath.Dir(b.before)
		if err := copyFile(filepath.Join(before, doorBenchmark), doorBenchmark); err != nil {
			return err
		}
		trees = append(trees, struct{ of, dir string }{", before", before})
	}
	for range b.repeat {
		for _, tree := range trees {
			cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench=Door", fmt.Sprintf("-benchtime=%dx", doorReports), "./pkg/deviceapi")
			cmd.Dir = tree.dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("running the benchmark of the door%s: %w: %s", tree.of, err, out)
			}
			for _, m := range doorResult.FindAllStringSubmatch(string(out), -1) {
				what := m[1] + " devices report at once" + tree.of
				if found[what] == nil {
					order, found[what] = append(order, what), &waits{}
				}
				w := found[what]
				w.median, w.p99 = append(w.median, microseconds(m[2])), append(w.p99, microseconds(m[3]))
			}
		}
	}
	slices.Sort(order)
	for _, what := range order {
		w := found[what]
		b.report.add(what+": an answer takes", fmt.Sprintf("%.1f ms, p99 %.1f ms", median(w.median).Seconds()*1e3, median(w.p99).Seconds()*1e3), "", true)
	}
	return nil
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

func microseconds(s string) time.Duration {
	n, _ := strconv.ParseFloat(s, 64) // the pattern lets digits through
	return time.Duration(n * float64(time.Microsecond))
}
