package mirror

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// parts are the files of what transfers brought. Their names are the digests, without sha256:.
type parts struct {
	dir  string
	keep int64
}

func newParts(dir string, keep int64) (*parts, error) {
	if keep <= 0 {
		return &parts{}, os.RemoveAll(dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keeping what interrupted pulls brought: %w", err)
	}
	return &parts{dir, keep}, nil
}

func (p *parts) path(digest string) string {
	return filepath.Join(p.dir, strings.TrimPrefix(digest, "sha256:"))
}

// open opens the file of a blob, or returns nil when nothing of it is kept: it is too large,
// or the disk has less room than half of it would leave free.
func (p *parts) open(digest string, size int64) *os.File {
	if p.dir == "" || size > p.keep || !p.room(digest, size) {
		return nil
	}
	f, err := os.OpenFile(p.path(digest), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil
	}
	return f
}

// room removes the oldest files until a further one is within the bound.
func (p *parts) room(digest string, size int64) bool {
	var disk unix.Statfs_t
	if err := unix.Statfs(p.dir, &disk); err != nil || int64(disk.Bavail)*int64(disk.Bsize) < 3*size { //nolint:gosec // no disk has 8 EiB
		return false
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return false
	}
	var files []os.FileInfo
	total := size
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Name() != filepath.Base(p.path(digest)) {
			files, total = append(files, info), total+info.Size()
		}
	}
	slices.SortFunc(files, func(a, b os.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, f := range files {
		if total <= p.keep {
			break
		}
		total -= f.Size()
		_ = os.Remove(filepath.Join(p.dir, f.Name())) // who writes to it goes on
	}
	return true
}

// drop removes what is kept of a blob.
func (p *parts) drop(digest string) {
	if p.dir != "" {
		_ = os.Remove(p.path(digest))
	}
}
