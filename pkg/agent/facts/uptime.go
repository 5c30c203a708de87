package facts

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Boot returns what names the time from this start of the device to the next, or
// nothing.
func Boot(root string) string {
	data, _ := os.ReadFile(filepath.Join(root, "proc/sys/kernel/random/boot_id"))
	return strings.TrimSpace(string(data))
}

// Uptime is the time that the device was awake since it started. Nobody can set it.
func Uptime() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &at); err != nil {
		panic("reading the monotonic clock: " + err.Error()) // every Linux has it
	}
	return time.Duration(at.Nano())
}
