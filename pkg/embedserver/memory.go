package embedserver

import (
	"io/fs"
	"os"
	"path"
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

// The part of the memory up to which Go collects as usual, and the least. It is far
// above what is live with as many devices as a machine is for (50 KB each), so that
// what is collected at the limit is the garbage of bursts, which is as much as what is
// live. What SQLite and the kernel take is not counted.
const (
	softShare, softWhole = 3, 4
	minSoftLimit         = 256 << 20
)

func memoryForRequests() int64 {
	return min(maxRequestMemory, max(minRequestMemory, memory()/partOfRequests))
}

// SoftMemoryLimit is the memory in bytes at which the server collects garbage at
// once instead of letting it double what it has. It is 0 when nobody knows what the
// machine has.
func SoftMemoryLimit() int64 { return softLimit(memory()) }

func softLimit(memory int64) int64 {
	if memory == 0 {
		return 0
	}
	return max(minSoftLimit, memory/softWhole*softShare)
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

// unitMemory is the limit of the control group, which systemd or a container engine
// sets.
func unitMemory() (limit int64, ok bool) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	_, group, _ := strings.Cut(strings.TrimSpace(string(data)), "0::")
	return lowestLimit(os.DirFS("/sys/fs/cgroup"), group)
}

// lowestLimit is the lowest limit of a control group and of those that it is in. A
// group says "max" when it has none.
func lowestLimit(groups fs.FS, group string) (limit int64, ok bool) {
	for dir := path.Clean("/" + group)[1:]; ; dir = path.Dir(dir) {
		for _, name := range []string{"memory.max", "memory.high"} {
			data, err := fs.ReadFile(groups, path.Join(dir, name))
			if err != nil {
				continue
			}
			if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && (!ok || n < limit) {
				limit, ok = n, true
			}
		}
		if dir == "." || dir == "" {
			return limit, ok
		}
	}
}
