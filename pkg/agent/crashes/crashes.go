// Package crashes keeps what was known of a service when it ended and nobody had asked it
// to: the last of its output, how it ended, and how the device was. So what happened at
// night can be looked into in the morning, with or without a connection.
//
// It imports neither the agent nor its drivers: they write, and commands read.
package crashes

import (
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Crash is an end that nobody asked for.
type Crash struct {
	services.Name
	// Container is the name of the container, Image that of its image.
	Container string `json:"container"`
	Image     string `json:"image"`
	// ExitCode and OutOfMemory are the runtime's word. Cause says in words why it ended
	// when they do not: a probe failed, or the runtime lost the container.
	ExitCode    int    `json:"exitCode"`
	OutOfMemory bool   `json:"outOfMemory,omitempty"`
	Cause       string `json:"cause,omitempty"`
	// Ended is when the runtime says that it ended; zero when it does not.
	Ended time.Time `json:"ended,omitzero"`
	// Seen is when the agent noticed, by the system's clock; Boot and Uptime are the
	// same by a clock that nobody sets, see package runs.
	Seen   time.Time     `json:"seen"`
	Boot   string        `json:"boot"`
	Uptime time.Duration `json:"uptime"`
	// Ran is how long it ran, as far as the agent saw; zero when it did not see.
	Ran time.Duration `json:"ran,omitempty"`
	// Restarts are those before.
	Restarts int `json:"restarts,omitempty"`
	// Device is how the device was when the agent noticed.
	Device Device `json:"device"`
	// Output is the end of what it wrote to both streams, at most MaxOutput bytes. It
	// may begin with earlier runs of the container. It is the workload's own and may
	// hold its secrets.
	Output []byte `json:"output,omitempty"`
}

// Device is how a device was.
type Device struct {
	// Connected: it had a connection to the server.
	Connected bool `json:"connected"`
	// Manifest is what it ran by.
	Manifest wire.Version `json:"manifest"`
	// Memory is that of the device, in bytes; zero when it is not known.
	MemorySize      uint64 `json:"memorySize,omitempty"`
	MemoryAvailable uint64 `json:"memoryAvailable,omitempty"`
	// Disks are the file systems that the agent and its workloads use.
	Disks []Disk `json:"disks,omitempty"`
}

// Disk is a file system, in bytes.
type Disk struct {
	Name string `json:"name"`
	Size uint64 `json:"size"`
	Used uint64 `json:"used"`
}

// Dir is the name of the directory of crashes, in the state directory.
const Dir = "crashes"

const (
	// MaxOutput bounds Crash.Output, in bytes.
	MaxOutput = 64 << 10
	// maxPerService and maxPerDevice bound the crashes that are kept, and maxBytes what
	// their files take.
	maxPerService, maxPerDevice, maxBytes = 3, 32, 2 << 20
	// maxFile bounds a file: Output takes a third more there.
	maxFile = 128 << 10
)
