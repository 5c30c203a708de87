package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc/<pid>/stat; it is 100 Hz on
// every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// RSS returns the resident memory of a process in bytes.
func RSS(pid int) (int64, error) { return memory(pid, "VmRSS:") }

// Anonymous returns the part of a process's resident memory that is of no file, in bytes.
func Anonymous(pid int) (int64, error) { return memory(pid, "RssAnon:") }

// PeakRSS returns the most resident memory that a process has had, in bytes.
func PeakRSS(pid int) (int64, error) { return memory(pid, "VmHWM:") }

// ResetPeakRSS makes PeakRSS count from now on. Not every kernel can.
func ResetPeakRSS(pid int) error {
	const peak = "5" // proc(5), clear_refs
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte(peak), 0)
}

func memory(pid int, of string) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parseMemory(string(data), of)
}

// ParseRSS takes the resident memory in bytes from a /proc/<pid>/status.
func ParseRSS(status string) (int64, error) { return parseMemory(status, "VmRSS:") }

func parseMemory(status, of string) (int64, error) {
	for line := range strings.Lines(status) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == of {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the process has no memory")
}

// CPU returns the processor time that a process has used.
func CPU(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return ParseCPU(string(data))
}

// ParseCPU takes the processor time from a /proc/<pid>/stat.
func ParseCPU(stat string) (time.Duration, error) {
	// The name, in parentheses, may have spaces; utime and stime are fields 14
	// and 15 of the whole.
	_, rest, _ := strings.Cut(stat, ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("unexpected form of /proc/<pid>/stat")
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}
