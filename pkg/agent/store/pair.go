package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// previousPrefix begins the names of documents that the present ones replaced.
const previousPrefix = "previous-"

// writePair replaces a document by a sealed one, and keeps the one that it replaces
// beside it if that is whole.
func writePair[T any](s *Store, name string, v *T) error {
	data, err := seal(v)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	if err := s.keepPrevious(name, new(T)); err != nil {
		return fmt.Errorf("keeping the previous %s: %w", name, err)
	}
	return s.put(filepath.Join(s.dir, name), data)
}

// keepPrevious gives a document of a form that is whole a second name, in place of what
// had that.
// As a rule that takes no space; the document is there all the time.
func (s *Store) keepPrevious(name string, form any) error {
	present, previous := filepath.Join(s.dir, name), filepath.Join(s.dir, previousPrefix+name)
	data, err := readFile(present, maxDocument)
	if err != nil || unseal(data, form) != nil {
		return nil // there is none, or the previous one is better than it
	}
	if err := os.Remove(previous); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(present, previous); err == nil {
		return nil
	}
	return s.put(previous, data) // not every file system has links
}

// readPair decodes a document, or the previous one when the present one is
// damaged or lost: then intact is false. What is damaged is named in the log. It returns
// nil when there is nothing that is whole.
func readPair[T any](s *Store, name string, check func(*T) error) (v *T, intact bool) {
	v, err := readSealed(s, name, check)
	if err == nil {
		return v, true
	}
	lost := errors.Is(err, fs.ErrNotExist)
	if !lost {
		s.damaged(name, err)
	}
	v, err = readSealed(s, previousPrefix+name, check)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, lost
	case err != nil:
		s.damaged(previousPrefix+name, err)
		return nil, false
	}
	s.log.Warn("the previous version of a file in the state directory is used", "file", name)
	return v, false
}

// readSealed decodes a document. The error is fs.ErrNotExist when there is none.
func readSealed[T any](s *Store, name string, check func(*T) error) (*T, error) {
	data, err := readFile(filepath.Join(s.dir, name), maxDocument)
	if err != nil {
		return nil, err
	}
	v := new(T)
	if err := unseal(data, v); err != nil {
		return nil, err
	}
	if err := check(v); err != nil {
		return nil, err
	}
	return v, nil
}
