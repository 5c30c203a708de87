package rights

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Errors of ReadFile; match them with errors.Is.
var (
	// ErrNotRegular: it is a directory, a pipe, a device or the like.
	ErrNotRegular = errors.New("not a regular file")
	// ErrTooLong: it is longer than it may be.
	ErrTooLong = errors.New("too long")
)

// ReadFile reads a file in a directory of another account, which may have put
// anything there: a link leads nowhere, a pipe keeps nobody waiting, and what is
// longer than limit bytes is not read.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) {
		return nil, &os.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "read", Path: path, Err: ErrNotRegular}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("%w: more than %d bytes", ErrTooLong, limit)}
	}
	return data, nil
}
