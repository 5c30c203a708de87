package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/rights"
)

// remove removes documents; those that are not there are no error.
func (s *Store) remove(names ...string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing %s: %w", name, err)
		}
	}
	return atomicfile.SyncDir(s.dir)
}

// readFile reads a file of at most limit bytes. Root reads it, too, when the device
// enrolls or is diagnosed.
func readFile(path string, limit int64) ([]byte, error) {
	return rights.ReadFile(path, limit)
}
