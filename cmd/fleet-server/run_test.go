package main

import (
	"math"
	"runtime/debug"
	"testing"
)

// An operator's limit stays, and one that nobody knows is none. No other test runs
// meanwhile: the limit is that of the process.
func TestSoftLimitOfMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	for _, tc := range []struct {
		chosen      string
		limit, want int64
	}{{"", 1 << 30, 1 << 30}, {"2GiB", 1 << 30, math.MaxInt64}, {"off", 1 << 30, math.MaxInt64}, {"", 0, math.MaxInt64}} {
		debug.SetMemoryLimit(math.MaxInt64)
		limitMemory(tc.chosen, tc.limit)
		if got := debug.SetMemoryLimit(-1); got != tc.want {
			t.Errorf("GOMEMLIMIT=%s, of %d: the limit is %d, want %d", tc.chosen, tc.limit, got, tc.want)
		}
	}
}
