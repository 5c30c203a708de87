//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

var (
	// ErrExists: a machine of that name is there already.
	ErrExists = errors.New("machine exists")
	// ErrNotFound: no machine of that name is there.
	ErrNotFound = errors.New("no such machine")
	// ErrInUse: another process works with the machine.
	ErrInUse = errors.New("machine is in use by another process")
)

// namePattern keeps names fit for a host name, a directory and a cgroup.
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// detachedMark is a file in the directory of a machine that outlives its maker.
const detachedMark = "detached"

// slot is what a machine owns on the host: a directory and a cgroup. The
// process that uses it holds a lock on the directory, which the kernel drops
// when the process ends, however it ends; a slot without lock and without
// detachedMark is a leftover.
type slot struct {
	name   string
	dir    string
	group  cgroup
	locked *os.File
}

func (l *Lab) slot(name string) (*slot, error) {
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("machine name %.60q: use up to 40 lower-case letters, digits and '-'", name)
	}
	return &slot{
		name:  name,
		dir:   filepath.Join(l.machinesDir(), name),
		group: cgroup(filepath.Join(l.cgroups, "fleet-lab-"+l.id()+"-"+name)),
	}, nil
}

// createSlot makes the directory and the cgroup and locks them for this process.
func (l *Lab) createSlot(name string, detached bool) (*slot, error) {
	s, err := l.slot(name)
	if err != nil {
		return nil, err
	}
	// A sweep between mkdir and lock would take the slot for a leftover.
	unlock, err := lockDir(l.machinesDir(), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock.Close()
	if err := os.Mkdir(s.dir, 0o700); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %s", ErrExists, name)
	} else if err != nil {
		return nil, fmt.Errorf("creating machine %s: %w", name, err)
	}
	if detached {
		if err := os.WriteFile(filepath.Join(s.dir, detachedMark), nil, 0o600); err != nil {
			return nil, fmt.Errorf("creating machine %s: %w", name, err)
		}
	}
	return s, s.lock()
}

// attachSlot locks an existing slot. It waits for a sweep, which holds the lock
// of each slot for a moment.
func (l *Lab) attachSlot(name string) (*slot, error) {
	unlock, err := lockDir(l.machinesDir(), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock.Close()
	return l.openSlot(name)
}

// openSlot locks an existing slot.
func (l *Lab) openSlot(name string) (*slot, error) {
	s, err := l.slot(name)
	if err != nil {
		return nil, err
	}
	return s, s.lock()
}

func (s *slot) lock() (err error) {
	s.locked, err = lockDir(s.dir, unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s", ErrNotFound, s.name)
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%w: %s", ErrInUse, s.name)
	}
	return err
}

// release gives up the lock; a detached machine goes on without it.
func (s *slot) release() error { return s.locked.Close() }

func (s *slot) detached() bool {
	_, err := os.Stat(filepath.Join(s.dir, detachedMark))
	return err == nil
}

// destroy kills what runs in the slot and removes it. The machine's mounts are
// in a mount namespace that ends with its processes, so that removing the
// directory reaches nothing else.
func (s *slot) destroy(ctx context.Context) error {
	defer s.release()
	if err := s.group.kill(ctx); err != nil {
		return fmt.Errorf("removing machine %s: %w", s.name, err)
	}
	if err := s.group.remove(ctx); err != nil {
		return fmt.Errorf("removing machine %s: %w", s.name, err)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("removing machine %s: %w", s.name, err)
	}
	return nil
}

// Sweep removes the machines that killed processes left. Detached machines and
// those of other running processes stay.
func (l *Lab) Sweep(ctx context.Context) error {
	return l.removeSlots(ctx, func(s *slot) bool { return !s.detached() })
}

// Clean removes all machines, also detached ones, except those that another
// process works with.
func (l *Lab) Clean(ctx context.Context) error {
	return l.removeSlots(ctx, func(*slot) bool { return true })
}

func (l *Lab) removeSlots(ctx context.Context, unwanted func(*slot) bool) error {
	unlock, err := lockDir(l.machinesDir(), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock.Close()
	names, err := l.names()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		s, err := l.openSlot(name)
		if err != nil {
			continue // in use, or gone meanwhile
		}
		if !unwanted(s) {
			errs = append(errs, s.release())
			continue
		}
		l.printf("removing the left-over machine %s", name)
		errs = append(errs, s.destroy(ctx))
	}
	return errors.Join(errs...)
}

func (l *Lab) names() ([]string, error) {
	entries, err := os.ReadDir(l.machinesDir())
	if err != nil {
		return nil, fmt.Errorf("listing machines: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// lockDir takes an advisory lock on a directory until the file is closed.
func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return f, nil
}
