//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// report tells a person how far the demo is.
type report struct {
	out io.Writer
}

// step announces step n of total and returns a function that says how long it took.
func (r *report) step(n, total int, title string) (done func()) {
	start := time.Now()
	fmt.Fprintf(r.out, "[%d/%d] %s\n", n, total, title)
	return func() {
		if took := time.Since(start); took > time.Second {
			fmt.Fprintf(r.out, "      %.1f s\n", took.Seconds())
		}
	}
}

// Write prints lines of other parts below the step that they belong to.
func (r *report) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if _, err := fmt.Fprintf(r.out, "      %s\n", strings.TrimRight(line, "\n")); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
