//go:build linux

package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// doorReports is how many reports the devices of the door's benchmark send together.
const doorReports = 3000

var doorResult = regexp.MustCompile(`devices=(\d+)\S*\s.*?([\d.]+) µs/median\s+([\d.]+) µs/p99`)

// door measures how long devices wait for an answer that report all at the same time,
// in one process with the server's part.
func (b *bench) door(ctx context.Context) error {
	type waits struct{ median, p99 []time.Duration }
	var order []string
	found := map[string]*waits{}
	for range b.repeat {
		out, err := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench=Door", fmt.Sprintf("-benchtime=%dx", doorReports), "./pkg/deviceapi").CombinedOutput()
		if err != nil {
			return fmt.Errorf("running the benchmark of the door: %w: %s", err, out)
		}
		for _, m := range doorResult.FindAllStringSubmatch(string(out), -1) {
			if found[m[1]] == nil {
				order, found[m[1]] = append(order, m[1]), &waits{}
			}
			w := found[m[1]]
			w.median, w.p99 = append(w.median, microseconds(m[2])), append(w.p99, microseconds(m[3]))
		}
	}
	for _, devices := range order {
		w := found[devices]
		b.report.add(devices+" devices report at once: an answer takes", fmt.Sprintf("%s, p99 %s", milliseconds(median(w.median)), milliseconds(median(w.p99))), "", true)
	}
	return nil
}

func microseconds(s string) time.Duration {
	n, _ := strconv.ParseFloat(s, 64) // the pattern lets digits through
	return time.Duration(n * float64(time.Microsecond))
}
