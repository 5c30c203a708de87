package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Mender repairs the storage of the account that it runs as.
type Mender struct {
	Root string
	// Run runs a command of the account to its end.
	Run func(ctx context.Context, name string, args ...string) error
	// Runs reports whether containers of the account run.
	Runs func() (bool, error)
}

// Repair removes secrets that are damaged, sets aside what keeps podman from starting, see
// SetAside, and deletes what was set aside before. It returns ErrRuns while containers run and
// something has to be set aside.
func (m *Mender) Repair(ctx context.Context) (done string, err error) {
	damages, err := Look(m.Root)
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(damages, func(d Damage) bool { return d.Kind == Secrets }) {
		if done, err = mendSecrets(m.Root); err != nil {
			return "", err
		}
	}
	if Blocking(damages) {
		aside, err := m.setAside(ctx, damages)
		if err != nil {
			return "", err
		}
		done = strings.TrimPrefix(done+"; "+aside, "; ")
	}
	if rests := Rests(m.Root); len(rests) > 0 {
		// Only within the user namespace of the containers may all files be deleted, and only
		// a unit of its own has the right to enter it. What stays is found again.
		args := append([]string{"--user", "--wait", "--collect", "--quiet", "podman", "unshare", "rm", "-rf", "--"}, rests...)
		if err := m.Run(ctx, "systemd-run", args...); err != nil {
			return done, fmt.Errorf("deleting what was set aside: %w", err)
		}
	}
	return done, nil
}

// Blocking reports whether podman cannot work with what is damaged.
func Blocking(damages []Damage) bool {
	for _, d := range damages {
		if d.Kind == Database || d.Kind == Index {
			return true
		}
	}
	return false
}

// setAside does it while no podman can start.
func (m *Mender) setAside(ctx context.Context, damages []Damage) (done string, err error) {
	if err := m.idle(); err != nil {
		return "", err
	}
	if err := m.Run(ctx, "systemctl", "--user", "stop", "podman.socket", "podman.service"); err != nil {
		return "", fmt.Errorf("stopping podman: %w", err)
	}
	if err = m.idle(); err == nil { // one may have started meanwhile
		done, err = SetAside(m.Root, damages)
	}
	if startErr := m.Run(context.WithoutCancel(ctx), "systemctl", "--user", "start", "podman.socket"); err == nil && startErr != nil {
		err = fmt.Errorf("starting podman.socket: %w", startErr)
	}
	return done, err
}

func (m *Mender) idle() error {
	runs, err := m.Runs()
	if err == nil && runs {
		err = ErrRuns
	}
	return err
}

// Monitor is the program that podman starts for each container that runs.
const Monitor = "conmon"

// ContainersRun reports whether this account has monitors of containers.
func ContainersRun() (bool, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		info, err := os.Stat(filepath.Join("/proc", e.Name()))
		if err != nil {
			continue
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if ok && int(owner.Uid) == os.Getuid() && Called(pid) == Monitor {
			return true, nil
		}
	}
	return false, nil
}

// Called is the name of a process's program, of at most 15 bytes; empty for one that ended.
func Called(pid int) string {
	name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}
