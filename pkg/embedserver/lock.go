package embedserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrInUse: another server works on the data directory.
var ErrInUse = errors.New("the data directory is in use by another fleet-server")

// lock keeps a second server off the data directory. The kernel releases it
// when the process ends, however it ends.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w: start as the user that it belongs to, or choose another --data-dir", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("%w: %s: stop that one first, or choose another --data-dir", ErrInUse, dir), f.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the data directory %s: %w", dir, err), f.Close())
	}
	return f, nil
}
