//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroup is a directory of the unified hierarchy. It is the lab's register of
// processes: what a machine starts cannot leave it.
type cgroup string

// pollInterval is how often the lab looks whether a machine has changed state.
const pollInterval = 20 * time.Millisecond

func (c cgroup) create() error {
	if err := os.Mkdir(string(c), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("creating a cgroup: %w", err)
	}
	if c.populated() {
		return fmt.Errorf("the cgroup %s has processes already", c)
	}
	return nil
}

// populated reports whether any process lives in c or below.
func (c cgroup) populated() bool {
	events, err := os.ReadFile(filepath.Join(string(c), "cgroup.events"))
	return err == nil && strings.Contains(string(events), "populated 1")
}

// processes returns the pids in the group c/sub itself, not below.
func (c cgroup) processes(sub string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(string(c), sub, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("parsing the pids of %s: %w", c, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// freeze lets all processes of c stand still until they are killed.
func (c cgroup) freeze(ctx context.Context) error {
	err := os.WriteFile(filepath.Join(string(c), "cgroup.freeze"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("freezing the processes of %s: %w", c, err)
	}
	return poll(ctx, func() (bool, error) {
		events, err := os.ReadFile(filepath.Join(string(c), "cgroup.events"))
		return strings.Contains(string(events), "frozen 1"), err
	})
}

// kill ends all processes of c at once and waits until they are gone.
func (c cgroup) kill(ctx context.Context) error {
	err := os.WriteFile(filepath.Join(string(c), "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("killing the processes of %s: %w", c, err)
	}
	return c.waitEmpty(ctx)
}

func (c cgroup) waitEmpty(ctx context.Context) error {
	return poll(ctx, func() (bool, error) { return !c.populated(), nil })
}

// remove deletes c and the groups below it, which must be empty of processes.
// A group stays busy for a moment after its last process.
func (c cgroup) remove(ctx context.Context) error {
	return poll(ctx, func() (bool, error) {
		err := c.removeTree()
		if errors.Is(err, syscall.EBUSY) {
			return false, nil
		}
		return true, err
	})
}

func (c cgroup) removeTree() error {
	entries, err := os.ReadDir(string(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := cgroup(filepath.Join(string(c), e.Name())).removeTree(); err != nil {
			return err
		}
	}
	if err := syscall.Rmdir(string(c)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the cgroup %s: %w", c, err)
	}
	return nil
}

// poll calls done until it reports true or an error, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
