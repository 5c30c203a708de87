package facts

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Disk returns the size of the file system that holds path and the part of it
// that the agent cannot use, in bytes.
func Disk(path string) (size, used uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, 0, fmt.Errorf("looking at the file system of %s: %w", path, err)
	}
	block := uint64(s.Bsize) //nolint:gosec // a block size is positive
	return s.Blocks * block, (s.Blocks - s.Bavail) * block, nil
}
