package embedserver

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// What requests of one kind may take together, in bytes: an eighth of the
// machine's memory within these bounds.
const (
	minRequestMemory, maxRequestMemory = 96 << 20, 512 << 20
	partOfRequests                     = 8
)

func memoryForRequests() int64 {
	return min(maxRequestMemory, max(minRequestMemory, memory()/partOfRequests))
}

// memory is what the machine has, or what the unit may take if that is less.
func memory() int64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return 0
	}
	total := int64(info.Totalram) * int64(info.Unit)
	if limit, ok := unitMemory(); ok {
		return min(total, limit)
	}
	return total
}

// unitMemory is the limit of the control group, which systemd sets.
func unitMemory() (limit int64, ok bool) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	_, group, _ := strings.Cut(strings.TrimSpace(string(data)), "0::")
	if data, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", group, "memory.max")); err != nil {
		return 0, false
	}
	limit, err = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return limit, err == nil // it says "max" when there is none
}
