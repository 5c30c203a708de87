package helper

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/helper/storage"
)

// EndMonitor ends what a podman that was itself ended in the midst of a start left behind of
// it: the monitor of a container that does not run, and its children. What forwards the ports
// of the container ends with them; podman neither knows of it nor ends it. It reports whether
// there was any, and returns ErrUnavailable or the error of ctx.
func (c *Client) EndMonitor(ctx context.Context, container string) (ended bool, err error) {
	got, _, err := c.ask(ctx, &request{Monitor: container, Timeout: patience(ctx, maxLook)}, maxReply, 0)
	if err != nil || got.Outcome != seen {
		return false, c.failure(ctx, &got, err)
	}
	return got.Changed, nil
}

// endMonitor ends the monitors of a container, of which there is one at most as a rule.
func endMonitor(container string) reply {
	all, err := processes()
	if err != nil {
		return answer(failed, err)
	}
	got := reply{Outcome: seen}
	for _, p := range all {
		if !p.monitors(container) {
			continue
		}
		got.Changed = true
		for _, child := range all { // first: without its monitor, a child would be nobody's
			if child.parent == p.pid {
				_ = unix.Kill(child.pid, unix.SIGKILL) // it may have ended
			}
		}
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
	return got
}

// process is one of the device's.
type process struct{ pid, parent int }

// processes lists those that there are.
func processes() (all []process, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // it ended
		}
		// Of "PID (NAME) STATE PARENT …", the name may have anything in it.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			all = append(all, process{pid: pid, parent: parent})
		}
	}
	return all, nil
}

// monitors reports whether it is the monitor of a container.
func (p process) monitors(container string) bool {
	if storage.Called(p.pid) != storage.Monitor {
		return false
	}
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.pid), "cmdline"))
	args := strings.Split(string(line), "\x00")
	at := slices.Index(args, "-c")
	return err == nil && at > 0 && at+1 < len(args) && args[at+1] == container && !slices.Contains(args, "-e")
}
