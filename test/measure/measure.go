// Package measure has what benchmarks of several packages measure by.
package measure

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

// CPU measures f, also in processor time, which counts on a machine that is shared.
func CPU(b *testing.B, f func(i int)) {
	b.Helper()
	before := ProcessorTime(b)
	for i := 0; b.Loop(); i++ {
		f(i)
	}
	b.ReportMetric(float64(ProcessorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// ProcessorTime is what the process has used so far.
func ProcessorTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// Heap is what is live after a collection, in bytes.
func Heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
