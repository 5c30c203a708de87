package cache

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

const (
	blobsName, partsName, tagsName = "blobs", "parts", "tags"
	// spare is what stays free on the disk, in bytes.
	spare = 256 << 20
	// maxTags bounds the tags that are known.
	maxTags = 10000
)

// shelf is the directory of a cache. The time of a file is when somebody asked for it last.
type shelf struct {
	dir  string
	size int64
	now  func() time.Time
}

func newShelf(dir string, size int64, now func() time.Time) (*shelf, error) {
	for _, name := range []string{blobsName, partsName, tagsName} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("opening the cache of images: %w", err)
		}
	}
	return &shelf{dir, size, now}, nil
}

func (s *shelf) blob(digest v1.Hash) string { return filepath.Join(s.dir, blobsName, digest.Hex) }
func (s *shelf) part(o origin) string       { return filepath.Join(s.dir, partsName, o.file()) }

// touch notes that somebody asked for a file. That it fails has no other effect than that
// the file goes earlier.
func (s *shelf) touch(path string) { _ = os.Chtimes(path, time.Time{}, s.now()) }

func (s *shelf) has(digest v1.Hash) bool {
	_, err := os.Stat(s.blob(digest))
	return err == nil
}

// get returns a manifest that is here and whole.
func (s *shelf) get(digest v1.Hash) ([]byte, error) {
	f, err := os.Open(s.blob(digest))
	if err != nil {
		return nil, ErrUnknown
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > maxManifest {
		return nil, ErrUnknown // somebody's layer, which an index calls a manifest
	}
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil || !matches(data, digest) {
		_ = os.Remove(s.blob(digest)) // the disk damaged it, or it is no manifest
		return nil, ErrUnknown
	}
	s.touch(s.blob(digest))
	return data, nil
}

// put keeps a manifest.
func (s *shelf) put(digest v1.Hash, data []byte, b busy) error {
	if err := s.makeRoom(int64(len(data)), b); err != nil {
		return err
	}
	if err := atomicfile.Write(s.blob(digest), data, 0o600); err != nil {
		return fmt.Errorf("%w: %w", ErrSpace, err)
	}
	s.touch(s.blob(digest))
	return nil
}

// open opens a blob that is here. One of another size than asked for stays: either the disk
// damaged it, and what is fetched now replaces it, or a manifest lies, which is not worth the
// reading of a whole blob.
func (s *shelf) open(d v1.Descriptor, from int64) (io.ReadCloser, error) {
	path := s.blob(d.Digest)
	f, err := os.Open(path)
	if err != nil {
		return nil, ErrUnknown
	}
	info, err := f.Stat()
	if err != nil || info.Size() != d.Size {
		_ = f.Close()
		return nil, ErrUnknown
	}
	s.touch(path)
	if from > 0 {
		return section{io.NewSectionReader(f, from, d.Size-from), f}, nil
	}
	return &checked{f: f, hash: sha256.New(), left: d.Size, want: d.Digest.Hex, path: path}, nil
}

type section struct {
	io.Reader
	io.Closer
}

// checked reads a whole blob, and removes one that the disk damaged, so that the next who
// asks gets it anew. The last piece of such a one is not given away.
type checked struct {
	f    *os.File
	hash hash.Hash
	left int64
	want string
	path string
}

// Read implements io.Reader.
func (c *checked) Read(p []byte) (int, error) {
	n, err := c.f.Read(p)
	_, _ = c.hash.Write(p[:n]) // never fails
	if c.left -= int64(n); c.left <= 0 && n > 0 && hex.EncodeToString(c.hash.Sum(nil)) != c.want {
		return 0, errors.Join(fmt.Errorf("%w: the disk damaged it", ErrUnavailable), os.Remove(c.path))
	}
	return n, err //nolint:wrapcheck // io.EOF among them
}

// Close implements io.Closer.
func (c *checked) Close() error { return c.f.Close() }

// begin opens the file of a fetch, with what it has already.
func (s *shelf) begin(o origin) (*os.File, error) {
	if o.size < 0 || o.size > s.size {
		return nil, s.tooLarge(o.size)
	}
	f, err := os.OpenFile(s.part(o), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpace, err)
	}
	s.touch(s.part(o))
	return f, nil
}

func (s *shelf) tooLarge(size int64) error {
	return fmt.Errorf("%w: it has %d MiB, and the cache %d: make imageCacheSize larger", ErrSpace, size>>20, s.size>>20)
}

// keep gives a whole blob its name.
func (s *shelf) keep(o origin) error {
	if err := os.Rename(s.part(o), s.blob(o.digest)); err != nil {
		return fmt.Errorf("keeping a part of an image: %w", err)
	}
	return atomicfile.SyncDir(filepath.Join(s.dir, blobsName))
}

// drop removes what a fetch brought that is wrong.
func (s *shelf) drop(o origin) { _ = os.Remove(s.part(o)) }

// file is a file that may go.
type file struct {
	path string
	size int64
	used time.Time
}

// makeRoom removes what nobody asked for the longest until size bytes more have room, beside
// those that are coming.
func (s *shelf) makeRoom(size int64, b busy) error {
	if size > s.size {
		return s.tooLarge(size)
	}
	files, total := s.files(b.files)
	free, err := s.free()
	if err != nil {
		return err
	}
	total, free = total+b.coming, free-b.coming-spare
	slices.SortFunc(files, func(a, b file) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.path, b.path)) })
	for _, f := range files {
		if total+size <= s.size && free >= size {
			return nil
		}
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("making room in the cache of images: %w", err)
		}
		total, free = total-f.size, free+f.size
	}
	switch {
	case free < size:
		return fmt.Errorf("%w: it has %d MiB, and %d are free on the disk of the gateway", ErrSpace, size>>20, max(0, free)>>20)
	case total+size > s.size:
		return fmt.Errorf("%w: others are being fetched: try again, or make imageCacheSize larger", ErrSpace)
	}
	return nil
}

// files are those that may go; total is the size of all.
func (s *shelf) files(busy map[string]bool) (files []file, total int64) {
	for _, name := range []string{blobsName, partsName} {
		entries, _ := os.ReadDir(filepath.Join(s.dir, name)) // none is as good as one that cannot be read
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				continue
			}
			total += info.Size()
			if !busy[e.Name()] {
				files = append(files, file{filepath.Join(s.dir, name, e.Name()), info.Size(), info.ModTime()})
			}
		}
	}
	return files, total
}

func (s *shelf) free() (int64, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(s.dir, &disk); err != nil {
		return 0, fmt.Errorf("measuring the room for images: %w", err)
	}
	return int64(disk.Bavail) * int64(disk.Bsize), nil //nolint:gosec // no disk has 8 EiB
}

// tagFile is what is kept of a tag.
type tagFile struct {
	Tag    string  `json:"tag"`
	Digest v1.Hash `json:"digest"`
}

func (s *shelf) tagPath(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(s.dir, tagsName, hex.EncodeToString(sum[:]))
}

// tag returns what a tag stood for, and when that was learned.
func (s *shelf) tag(key string) (digest v1.Hash, at time.Time, known bool) {
	path := s.tagPath(key)
	data, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	var t tagFile
	if err != nil || statErr != nil || json.Unmarshal(data, &t) != nil || t.Tag != key {
		return v1.Hash{}, time.Time{}, false
	}
	return t.Digest, info.ModTime(), true
}

func (s *shelf) setTag(key string, digest v1.Hash) error {
	data, err := json.Marshal(tagFile{key, digest})
	if err != nil {
		return fmt.Errorf("keeping a tag: %w", err)
	}
	s.dropTags()
	if err := atomicfile.Write(s.tagPath(key), data, 0o600); err != nil {
		return fmt.Errorf("%w: %w", ErrSpace, err)
	}
	s.touch(s.tagPath(key))
	return nil
}

// dropTags forgets all tags when there are too many: they are asked for again.
func (s *shelf) dropTags() {
	entries, err := os.ReadDir(filepath.Join(s.dir, tagsName))
	if err != nil || len(entries) < maxTags {
		return
	}
	for _, e := range entries {
		_ = os.Remove(filepath.Join(s.dir, tagsName, e.Name()))
	}
}
