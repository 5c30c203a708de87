//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/test/wait"
)

// limit is a control group with a limit of memory, for a server.
type limit struct {
	bytes int64
	// isSet makes the servers that start from now on have the limit.
	isSet bool
	// group is the directory of the control group, events the file in it that counts what the
	// kernel killed. Both are empty on a host that has no such group to give.
	group, events string
	// seen is whether every version of the server sees the limit, as with the unified hierarchy.
	seen bool
}

// hierarchies are where memory is limited, on hosts of either kind.
var hierarchies = []struct {
	root, limit, swap, events string
	unified                   bool
}{
	{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control", false},
	{"/sys/fs/cgroup", "memory.max", "memory.swap.max", "memory.events", true},
}

// newLimit makes a control group. Without one, the limit is Go's alone.
func newLimit(bytes int64) *limit {
	l := &limit{bytes: bytes}
	for _, h := range hierarchies {
		group := filepath.Join(h.root, fmt.Sprint("fleet-bench-", os.Getpid()))
		if os.Mkdir(group, 0o755) != nil {
			continue
		}
		if tell(filepath.Join(group, h.limit), bytes) != nil {
			_ = os.Remove(group) // it was no control group
			continue
		}
		swap := int64(0) // beside the memory
		if !h.unified {
			swap = bytes // together with it
		}
		_ = tell(filepath.Join(group, h.swap), swap) // not there without swap
		l.group, l.events, l.seen = group, filepath.Join(group, h.events), h.unified
		break
	}
	return l
}

// tell writes a number to a file of a control group: one that is there.
func tell(file string, n int64) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(n, 10))
	return errors.Join(err, f.Close())
}

// soft is what a server that sees the limit tells Go: three quarters of it.
func (l *limit) soft() int64 { return l.bytes / 4 * 3 }

// command is a process.Command. Only the server itself gets the limit, not what is run to ask
// it something.
func (l *limit) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if !l.isSet || len(args) == 0 || args[0] != "run" {
		return exec.CommandContext(ctx, name, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	if l.group != "" {
		const enter = `echo $$ >"$0" && exec "$@"`
		cmd = exec.CommandContext(ctx, "sh", append([]string{"-c", enter, filepath.Join(l.group, "cgroup.procs"), name}, args...)...)
	}
	if !l.seen {
		cmd.Env = append(os.Environ(), fmt.Sprint("GOMEMLIMIT=", l.soft()))
	}
	return cmd
}

// words are how the server is limited.
func (l *limit) words() string {
	switch {
	case l.group == "":
		return fmt.Sprintf("GOMEMLIMIT=%d only: no control group to be had", l.soft())
	case !l.seen:
		return fmt.Sprintf("control group v1, which earlier versions do not read: GOMEMLIMIT=%d", l.soft())
	}
	return "control group, which the server reads"
}

// killed is how many processes the kernel killed for the limit.
func (l *limit) killed() (int, error) {
	if l.group == "" {
		return 0, nil
	}
	data, err := os.ReadFile(l.events)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if n, found := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); found {
			return strconv.Atoi(n)
		}
	}
	return 0, fmt.Errorf("%s does not say what was killed", l.events)
}

// remove removes the control group, whose processes have ended.
func (l *limit) remove() error {
	if l.group == "" {
		return nil
	}
	return wait.Until(context.Background(), 5*time.Second, pollInterval, func() error { return os.Remove(l.group) })
}
