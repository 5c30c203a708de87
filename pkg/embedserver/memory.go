package embedserver

import (
	"io/fs"
	"os"
	"path"
	"slices"
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
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	return limitOf(os.DirFS("/sys/fs/cgroup"), string(own))
}

// limitOf is the limit of the control groups that a process is in, as /proc/self/cgroup
// lists them: ID:CONTROLLERS:PATH. Version 2 has one hierarchy, with the id 0 and no
// controllers in that list, version 1 one for memory.
func limitOf(groups fs.FS, own string) (limit int64, ok bool) {
	for line := range strings.Lines(own) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		n, has := int64(0), false
		switch controllers := strings.Split(fields[1], ","); {
		case fields[0] == "0":
			n, has = lowestLimit(groups, ".", fields[2], "memory.max", "memory.high")
		case slices.Contains(controllers, "memory"):
			n, has = lowestLimit(groups, "memory", fields[2], "memory.limit_in_bytes")
		}
		if has && (!ok || n < limit) {
			limit, ok = n, true
		}
	}
	return limit, ok
}

// lowestLimit is the lowest limit of a control group and of those that it is in, below a
// hierarchy's root. A group without one says "max", or in version 1 a number that no
// machine has. In a container, the path may be that of the host: only the root is there.
func lowestLimit(groups fs.FS, root, group string, names ...string) (limit int64, ok bool) {
	for dir := path.Clean("/" + group)[1:]; ; dir = path.Dir(dir) {
		for _, name := range names {
			data, err := fs.ReadFile(groups, path.Join(root, dir, name))
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
