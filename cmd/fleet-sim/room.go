package main

import (
	"fmt"
	"math"
	"syscall"
)

// otherFiles is how many files the process has open besides connections, and some more.
const otherFiles = 100

// filesOf is how many open files a run needs: each device has a connection, and while it
// enrolls, two others.
func filesOf(o *options) uint64 { return uint64(o.devices + 2*o.atOnce + otherFiles) } //nolint:gosec // neither is negative

// haveRoom returns an error that says what to do unless the process may have enough open
// files. Without them, connections fail as if the server refused them.
func haveRoom(o *options, limit uint64) error {
	if need := filesOf(o); need > limit {
		return fmt.Errorf("--devices %d needs %d open files, and this process may have %d: run `ulimit -n %d` before, or raise the hard limit of the account or unit", o.devices, need, limit, need)
	}
	return nil
}

// openFiles is how many files the process may have open. Go has raised that to what is
// allowed.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxUint64
	}
	return limit.Cur
}
