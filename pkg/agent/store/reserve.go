package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

const (
	reserveFile = "reserve"
	// reserveSize is room for the largest documents, one after the other: a write
	// needs the space of a document only until the one that it replaces is gone.
	reserveSize = 2 << 20
	// reserveStep is given up besides what a file needs, and taken back, at a time.
	reserveStep = 64 << 10
)

// reserve is a file that takes space of the disk for the state. When the disk is full, a
// write gets as much of it as it needs, and as soon as there is space the reserve takes it
// back. Whoever fills the disk gets nothing of it but in the moment of a write.
type reserve struct {
	path string

	mu sync.Mutex // guards the file
}

// isFull reports whether a write failed for want of space, or of files on a file system
// that has a number of them.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// lend tries a write of n bytes again that failed with err, for want of space.
func (r *reserve) lend(n int, err error, write func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for left := r.size(); left > 0 && isFull(err); {
		left = max(0, left-int64(n)-reserveStep)
		if err := r.shrink(left); err != nil {
			return fmt.Errorf("giving up the space that is kept for the state: %w", err)
		}
		err = write()
	}
	return errors.Join(err, r.grow())
}

// fill makes the reserve whole as far as there is space, and reports whether it is.
func (r *reserve) fill() (whole bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size() < reserveSize {
		err = r.grow()
	}
	return r.size() >= reserveSize, err
}

func (r *reserve) size() int64 {
	info, err := os.Lstat(r.path)
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return info.Size()
}

// shrink gives up what is beyond a size. Where files are scarce and not bytes, the
// file itself is what helps.
func (r *reserve) shrink(size int64) error {
	if size == 0 {
		return os.Remove(r.path)
	}
	return os.Truncate(r.path, size)
}

// grow takes as much space as there is. That there is not enough is no error.
func (r *reserve) grow() error {
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if isFull(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keeping space for the state: %w", err)
	}
	defer f.Close()
	for size := r.size(); size < reserveSize; size += reserveStep {
		err := allocate(f, size, reserveStep)
		if err == nil {
			continue
		}
		cut := f.Truncate(size) // there may be a part of it
		if isFull(err) {
			return cut
		}
		return fmt.Errorf("keeping space for the state: %w", err)
	}
	return nil
}

// allocate takes space for n bytes of a file from an offset on.
func allocate(f *os.File, at, n int64) error {
	var err error = unix.EINTR
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, at, n)
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// Bytes that no file system can compress or leave out.
	if _, err := io.CopyN(io.NewOffsetWriter(f, at), rand.Reader, n); err != nil {
		return err
	}
	return f.Sync()
}

// Reserve takes back the space that is kept for the state. It reports whether there is
// enough of it on the disk; the error is about anything else.
func (s *Store) Reserve() (whole bool, err error) {
	if s.lock == nil {
		return true, nil // there is one for whoever writes
	}
	return s.reserve.fill()
}

// put replaces a file, which nobody else may read. On a full disk it takes the space
// that is kept for that.
func (s *Store) put(path string, data []byte) error {
	write := func() error { return atomicfile.Write(path, data, 0o600) }
	err := write()
	if s.lock == nil || !isFull(err) {
		return err
	}
	return s.reserve.lend(len(data), err, write)
}
