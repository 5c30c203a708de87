package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrHash: a body does not have the hash that it should have.
var ErrHash = errors.New("body does not match its hash")

// Body returns the body with this hash, or nil when it is not here. A body
// that does not match its hash is removed, so that it is fetched again; one that cannot be
// read at this moment is kept.
func (s *Store) Body(hash string) []byte {
	if !wire.ValidHash(hash) {
		return nil
	}
	body, err := readFile(s.bodyPath(hash), wire.MaxScoreSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && wire.Sum(body).String() != hash {
		err = fmt.Errorf("%w: %w", errDamage, ErrHash)
	}
	if err != nil {
		s.discard(filepath.Join(bodiesDir, hash), err)
		return nil
	}
	return body
}

// HasBody reports whether there is a file for a body, which may be damaged.
func (s *Store) HasBody(hash string) bool { return wire.ValidHash(hash) && exists(s.bodyPath(hash)) }

func exists(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// SaveBody stores a body under its hash. It returns ErrHash for a body that
// has another one.
func (s *Store) SaveBody(hash string, body []byte) error {
	if wire.Sum(body).String() != hash {
		return fmt.Errorf("storing body %.64q: %w", hash, ErrHash)
	}
	return s.put(s.bodyPath(hash), body)
}

// CollectBodies removes the bodies that keep does not name.
func (s *Store) CollectBodies(keep map[string]bool) error {
	return s.collect(bodiesDir, keep)
}

// collect removes the files of a directory whose names are hashes that keep
// does not have.
func (s *Store) collect(dir string, keep map[string]bool) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return fmt.Errorf("listing %s: %w", dir, err)
	}
	for _, e := range entries {
		if !wire.ValidHash(e.Name()) || keep[e.Name()] {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, dir, e.Name())); err != nil {
			return fmt.Errorf("removing from %s what nothing names: %w", dir, err)
		}
	}
	_, err = s.Reserve() // before somebody else takes what became free
	return err
}

func (s *Store) bodyPath(hash string) string { return filepath.Join(s.dir, bodiesDir, hash) }
