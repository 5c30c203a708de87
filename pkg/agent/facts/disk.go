package facts

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// FileSystem is what is left of a file system.
type FileSystem struct {
	// Size and Used are in bytes; Used counts what the agent cannot use.
	Size, Used uint64
	// Inodes and FreeInodes are zero where there is no limit.
	Inodes, FreeInodes uint64
	// ReadOnly: nothing can be written, as after errors of the disk.
	ReadOnly bool
}

// Bytes writes a number of bytes for people: "720 MiB", "29.3 GiB".
func Bytes(n uint64) string {
	const kib, mib, gib = 1 << 10, 1 << 20, 1 << 30
	switch {
	case n >= 100*gib:
		return fmt.Sprintf("%d GiB", n/gib)
	case n >= gib:
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	case n >= mib:
		return fmt.Sprintf("%d MiB", n/mib)
	}
	return fmt.Sprintf("%d KiB", n/kib)
}

// Disk looks at the file system that holds path.
func Disk(path string) (FileSystem, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return FileSystem{}, fmt.Errorf("looking at the file system of %s: %w", path, err)
	}
	block := uint64(s.Bsize) //nolint:gosec // a block size is positive
	return FileSystem{
		Size: s.Blocks * block, Used: (s.Blocks - s.Bavail) * block,
		Inodes: s.Files, FreeInodes: s.Ffree, ReadOnly: s.Flags&unix.ST_RDONLY != 0,
	}, nil
}
