// Package storage finds what a power cut or a worn card damaged in podman's storage, by
// looking at its files, and sets aside what keeps podman from starting. The helper does it,
// as the account that the storage belongs to; the agent decides when.
//
// Podman 4.3 has no check of its own, and `podman system check` of later ones needs a podman
// that starts and reads every byte of every image. Here no content is read: podman wrote
// down how large each file of a layer is, and after a power cut files are shorter or away.
//
// Volumes and networks are never touched, and of secrets those that podman cannot read.
package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Kind says what is damaged.
type Kind string

// Kinds of Damage.
const (
	// Database is podman's list of containers and volumes: podman does not start.
	Database Kind = "database"
	// Index is a list of layers, images or containers' layers: podman does not start or
	// finds none of them.
	Index Kind = "index"
	// Image is an image with a layer of which files are missing or cut off.
	Image Kind = "image"
	// Migration is a move from one kind of database to another that did not end.
	Migration Kind = "migration"
	// Secrets are a list of secrets or their contents that podman cannot read, or that do
	// not belong together.
	Secrets Kind = "secrets"
	// Rest was set aside and is not deleted yet.
	Rest Kind = "rest"
)

// Damage is one thing that is damaged.
type Damage struct {
	Kind Kind `json:"kind"`
	// What names it: a file below the storage, or the id of an image.
	What string `json:"what"`
	// Why says in one line what is wrong with it.
	Why string `json:"why"`
}

// MaxDamages bounds what is told at one time.
const MaxDamages = 32

// Root is where the storage of the account that runs this lies, unless its storage.conf
// says otherwise: then nothing is found there.
func Root() string {
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		data = filepath.Join(os.Getenv("HOME"), ".local", "share")
	}
	return filepath.Join(data, "containers", "storage")
}

// Look finds what is damaged in the storage at root: nothing in one that is not there.
func Look(root string) ([]Damage, error) {
	if _, err := os.Stat(root); os.IsNotExist(err) {
		return nil, nil
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("looking at podman's storage: %w", err)
	}
	defer dir.Close()
	l := looker{dir: dir}
	l.databases()
	layers, images := l.indexes()
	if !l.broken() {
		l.images(layers, images)
	}
	l.secrets()
	for _, path := range Rests(root) {
		l.note(Rest, filepath.Base(path), "it was set aside, and is to be deleted")
	}
	return l.found[:min(len(l.found), MaxDamages)], nil
}

// Flush brings what was written to the file system of the storage at root to the disk. The
// kernel decides how long that takes.
func Flush(root string) error {
	dir, err := os.Open(root)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
	}
	if err != nil {
		return fmt.Errorf("bringing podman's storage to the disk: %w", err)
	}
	return nil
}

// looker gathers what it finds.
type looker struct {
	dir   *os.Root
	found []Damage
}

func (l *looker) note(kind Kind, what, why string, args ...any) {
	l.found = append(l.found, Damage{kind, what, fmt.Sprintf(why, args...)})
}

// broken reports whether what says which layers there are is damaged.
func (l *looker) broken() bool {
	for _, d := range l.found {
		if d.Kind == Index {
			return true
		}
	}
	return false
}
