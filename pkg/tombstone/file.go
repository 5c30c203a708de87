package tombstone

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

// file is the Journal of one process: a file of JSON lines.
type file struct {
	path string
	// replace is atomicfile.Write, but in tests.
	replace func(path string, data []byte, perm fs.FileMode) error
	// open is nil when the file has to be opened again.
	open *os.File
	// size is the length of what is known to be whole.
	size int64
}

func openFile(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("opening the list of revoked keys: %w", err)
	}
	return &file{path: path, replace: atomicfile.Write}, nil
}

// Close implements Journal.
func (f *file) Close() error {
	if f.open == nil {
		return nil
	}
	return f.open.Close()
}

// Read implements Journal.
func (f *file) Read(each func(Entry)) error {
	if f.open == nil {
		if err := f.reopen(); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	_, err := f.each(f.size, each)
	return err
}

// Append implements Journal. What a power cut or an attempt on a full disk left behind is cut
// off first: in the middle of the file it would be damage.
func (f *file) Append(s Entry) error {
	line, err := s.Line()
	if err != nil {
		return err
	}
	if f.open == nil {
		if err := f.reopen(); err != nil {
			return err
		}
	}
	if err := f.open.Truncate(f.size); err != nil {
		return err
	}
	if _, err := f.open.WriteAt(line, f.size); err != nil {
		return err
	}
	if err := f.open.Sync(); err != nil {
		return err
	}
	f.size += int64(len(line))
	return nil
}

// Replace implements Journal. A power cut leaves either.
func (f *file) Replace(list []Entry) error {
	var data []byte
	for _, s := range list {
		line, err := s.Line()
		if err != nil {
			return err
		}
		data = append(data, line...)
	}
	err := f.replace(f.path, data, 0o600)
	// Also a write that failed may have given the new file its name. What follows
	// must not go to a file that has none.
	err = errors.Join(err, f.Close())
	f.open = nil
	return err
}

// reopen opens the file that has the list's name by now, and makes sure that it keeps the
// name. The file is never made here: an empty one would let everybody in at the next start.
func (f *file) reopen() error {
	opened, err := os.OpenFile(f.path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	read := &file{open: opened}
	if read.size, err = read.each(math.MaxInt64, func(Entry) {}); err == nil {
		err = atomicfile.SyncDir(filepath.Dir(f.path))
	}
	if err != nil {
		return errors.Join(err, opened.Close())
	}
	f.open, f.size = opened, read.size
	return nil
}

// each reads so many bytes of the file, line by line, and returns the length of what is whole.
func (f *file) each(size int64, each func(Entry)) (whole int64, err error) {
	r := bufio.NewReader(io.NewSectionReader(f.open, 0, size))
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return whole, nil // what is left has no end of line: it was never acknowledged
		}
		if err != nil {
			return whole, err
		}
		s, err := ParseLine(line)
		if err != nil {
			return whole, fmt.Errorf("%w at byte %d: restore the file from a backup", err, whole)
		}
		each(s)
		whole += int64(len(line))
	}
}
