// Package facts finds out what a device is: the inventory that it reports.
//
// Facts are read from /proc, /etc and the network interfaces. What cannot be
// read stays empty: no fact is worth failing for.
package facts

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// maxAddresses bounds the addresses in an inventory; a device with more has
// mostly those of container networks.
const maxAddresses = 16

// Collect returns the inventory but for the versions of agent and podman.
// root is "/" outside of tests.
func Collect(root string) wire.Inventory {
	release := osRelease(filepath.Join(root, "etc/os-release"), filepath.Join(root, "usr/lib/os-release"))
	hostname, _ := os.Hostname()
	return wire.Inventory{
		Hostname:  hostname,
		Arch:      runtime.GOARCH,
		OS:        release["ID"],
		OSVersion: release["VERSION_ID"],
		Kernel:    kernel(),
		CPUCores:  runtime.NumCPU(),
		MemoryMiB: memoryMiB(filepath.Join(root, "proc/meminfo")),
		Addresses: addresses(),
	}
}

// MachineID returns the content of /etc/machine-id, or nothing.
func MachineID(root string) string {
	data, _ := os.ReadFile(filepath.Join(root, "etc/machine-id"))
	return strings.TrimSpace(string(data))
}

// osRelease parses the first file that can be read; see os-release(5).
func osRelease(paths ...string) map[string]string {
	values := map[string]string{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && !strings.HasPrefix(key, "#") {
				values[key] = strings.Trim(value, `"'`)
			}
		}
		return values
	}
	return values
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func memoryMiB(meminfo string) int64 {
	return int64(memory(meminfo, "MemTotal:") >> 20) //nolint:gosec // no machine has as much
}

// Memory is how much memory the device has, and how much of it new work could have, in
// bytes; zero when the kernel does not tell. root is "/" outside of tests.
func Memory(root string) (size, available uint64) {
	meminfo := filepath.Join(root, "proc/meminfo")
	return memory(meminfo, "MemTotal:"), memory(meminfo, "MemAvailable:")
}

// memory returns what a line of /proc/meminfo says, in bytes, or zero.
func memory(meminfo, line string) uint64 {
	data, err := os.ReadFile(meminfo)
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // "MemTotal:  24576000 kB"
		if len(fields) == 3 && fields[0] == line {
			const bits = 53 // the rest has room for the factor
			kib, err := strconv.ParseUint(fields[1], 10, bits)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// addresses lists the addresses by which others may reach the device, in order.
func addresses() []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []string
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
			list = append(list, ip.IP.String())
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	return list[:min(len(list), maxAddresses)]
}
