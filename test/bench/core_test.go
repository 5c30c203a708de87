//go:build linux

package main

import "testing"

func TestBenchmarksAreRead(t *testing.T) {
	t.Parallel()
	found := parseBenchmarks(`goos: linux
BenchmarkDevice/a_label-2         	   10000	     31000 ns/op	     35000 cpu-ns/op
BenchmarkDevice/a_label-2         	   10000	     30000.5 ns/op	     35000 cpu-ns/op
BenchmarkMillion/memory
BenchmarkMillion/memory-2         	      10	       245.5 ns/op	        12.05 MB
--- BENCH: BenchmarkMillion-2
    bench_test.go:205: built in 1.5s of processor time, 11 MB
PASS
`)
	for _, want := range []struct {
		name, unit string
		value      float64
	}{{"Device/a_label", "ns/op", 30000.5}, {"Device/a_label", "cpu-ns/op", 35000}, {"Million/memory", "MB", 12.05}} {
		if got, err := found.median(want.name, want.unit); err != nil || got != want.value {
			t.Errorf("%s: %v %s, %v, want %v", want.name, got, want.unit, err, want.value)
		}
	}
	if _, err := found.median("Million/none", "MB"); err == nil {
		t.Error("nothing is missed of a benchmark that did not run")
	}
}
