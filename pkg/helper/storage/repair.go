package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// aside begins the names of directories in the storage that have what was set aside.
const aside = "set-aside-"

// ErrRuns: what is damaged is in use.
var ErrRuns = errors.New("containers run, which would be forgotten and started a second time: they go on, and it is repaired when none runs, as after a restart of the device")

// SetAside moves what is damaged out of podman's way: a database, or, when an index is
// damaged, that and all layers and images. It says in one line what it did; empty for
// nothing. Nothing may use the storage meanwhile. What was set aside is in Rests.
func SetAside(root string, damages []Damage) (done string, err error) {
	kinds := map[Kind]bool{}
	for _, d := range damages {
		kinds[d.Kind] = true
	}
	switch {
	case kinds[Index]:
		return "podman's images and containers were set aside: they are made anew, volumes stay", move(root, append(slices.Clone(databases), stores...))
	case kinds[Database]:
		return "podman's database was set aside: containers are made anew, images and volumes stay", move(root, databases)
	}
	return "", nil
}

// databases are those of podman, after what SQLite would play back into the next one, and
// stores what they are about.
var (
	databases = []string{sqliteFile + "-journal", sqliteFile + "-wal", sqliteFile + "-shm", sqliteFile, boltFile}
	stores    = []string{"overlay-containers", "overlay-images", "overlay-layers", "overlay"}
)

// move moves what there is into a directory that is made for it. The databases go first:
// without them podman starts with what is left, however far this came.
func move(root string, names []string) error {
	to, err := os.MkdirTemp(root, aside)
	if err != nil {
		return fmt.Errorf("setting damaged storage aside: %w", err)
	}
	for _, name := range names {
		err := os.Rename(filepath.Join(root, name), filepath.Join(to, filepath.Base(name)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("setting damaged storage aside: %w", err)
		}
	}
	return nil
}

// Rests are the directories that SetAside made and that are there still. Their files may
// belong to ids of containers.
func Rests(root string) []string {
	found, _ := filepath.Glob(filepath.Join(root, aside+"*"))
	return found
}
