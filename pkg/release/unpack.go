package release

import (
	"archive/tar"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	imagesDir = "images"
	// Bounds of a release: files, and bytes of all of them.
	maxFiles = 1000
	maxBytes = 64 << 30
	// spare is what stays free on the disk of the data directory, in bytes.
	spare = 64 << 20
)

// ErrSpace: the release does not fit on the disk.
var ErrSpace = errors.New("there is not enough room for the release")

// list is what a release says of itself: its checksums, once their signature is
// verified. Nothing is written before.
type list struct {
	sums, signature []byte
	// want are the checksums by name.
	want map[string]string
	// sizes are those of the files, found out by reading them; nil for a mirror.
	sizes map[string]int64
}

// newList verifies the signature, unless key is nil.
func newList(sums, signature []byte, key *ecdsa.PublicKey) (*list, error) {
	if sums == nil {
		return nil, fmt.Errorf("%w: %s is missing", ErrContent, checksumsName)
	}
	if key != nil {
		if err := verifySignature(sums, signature, key); err != nil {
			return nil, err
		}
	}
	want, err := parseSums(sums)
	if err != nil {
		return nil, err
	}
	return &list{sums: sums, signature: signature, want: want}, nil
}

// unpacker copies the files of a release from outside into a directory. Names
// decide where, so only those of a release are let through, and nothing but
// regular files.
type unpacker struct {
	root  *os.Root
	files int
	bytes int64
}

// Source is an opened bundle, a tar, or the directory of a release, or one on a
// mirror.
type Source struct {
	archive *os.File
	dir     *os.Root
	mirror  *mirror
}

// OpenSource opens a bundle or a directory. What follows needs no more rights.
func OpenSource(path string) (*Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening the release: %w", err)
	}
	s := &Source{}
	if info.IsDir() {
		s.dir, err = os.OpenRoot(path)
	} else {
		s.archive, err = os.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the release: %w", err)
	}
	return s, nil
}

// Close closes what OpenSource opened.
func (s *Source) Close() error {
	switch {
	case s.mirror != nil:
		s.mirror.client.CloseIdleConnections()
		return nil
	case s.dir != nil:
		return s.dir.Close()
	}
	return s.archive.Close()
}

// list returns the verified list of the release.
func (s *Source) list(ctx context.Context, key *ecdsa.PublicKey) (*list, error) {
	if s.mirror != nil {
		return s.mirror.readList(ctx, key)
	}
	return s.readList(key)
}

// readList returns the verified list of a bundle or a directory, of which every
// file is what the list says. It reads only.
func (s *Source) readList(key *ecdsa.PublicKey) (*list, error) {
	var sums, signature []byte
	err := s.each(func(name string, size int64, r io.Reader) (err error) {
		switch {
		case name != checksumsName && name != signatureName:
		case size > maxChecksums:
			err = fmt.Errorf("%w: %s is longer than %d bytes", ErrContent, name, maxChecksums)
		case name == checksumsName:
			sums, err = io.ReadAll(r)
		default:
			signature, err = io.ReadAll(r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	l, err := newList(sums, signature, key)
	if err != nil {
		return nil, err
	}
	return l, s.check(l)
}

// check reads every file, and learns how long it is.
func (s *Source) check(l *list) error {
	l.sizes = map[string]int64{}
	err := s.each(func(name string, size int64, r io.Reader) error {
		l.sizes[name] = size
		if name == checksumsName || name == signatureName {
			return nil
		}
		if l.want[name] == "" {
			return fmt.Errorf("%w: %s is not in %s", ErrContent, name, checksumsName)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return fmt.Errorf("verifying %s: %w", name, err)
		}
		if hex.EncodeToString(sum.Sum(nil)) != l.want[name] {
			return fmt.Errorf("%w: %s has another checksum", ErrContent, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name := range l.want {
		if _, there := l.sizes[name]; !there && !optional(name) {
			return fmt.Errorf("%w: %s is missing", ErrContent, name)
		}
	}
	return nil
}

// each calls do for every file, each of which is a regular one of a release and
// there once.
func (s *Source) each(do func(name string, size int64, r io.Reader) error) error {
	seen := map[string]bool{}
	var total int64
	one := func(name string, size int64, r io.Reader) error {
		switch {
		case !validName(name):
			return fmt.Errorf("%w: %.200q is no file of a release", ErrContent, name)
		case seen[name]:
			return fmt.Errorf("%w: %s is there twice", ErrContent, name)
		case len(seen) == maxFiles:
			return fmt.Errorf("%w: more than %d files", ErrContent, maxFiles)
		case size < 0 || size > maxBytes-total:
			return fmt.Errorf("%w: more than %d GiB", ErrContent, maxBytes>>30)
		}
		seen[name], total = true, total+size
		return do(name, size, r)
	}
	if s.dir != nil {
		return eachFile(s.dir, one)
	}
	info, err := s.archive.Stat()
	if err != nil {
		return fmt.Errorf("reading the release: %w", err)
	}
	return eachMember(tar.NewReader(io.NewSectionReader(s.archive, 0, info.Size())), one)
}

func eachMember(r *tar.Reader, do func(name string, size int64, r io.Reader) error) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: reading the archive: %w", ErrContent, err)
		}
		name := path.Clean(h.Name)
		if h.Typeflag == tar.TypeDir && (name == "." || name == imagesDir) {
			continue
		}
		if h.Typeflag != tar.TypeReg || sparse(h) {
			return fmt.Errorf("%w: %.200q in the archive is no regular file", ErrContent, h.Name)
		}
		if err := do(name, h.Size, r); err != nil {
			return err
		}
	}
}

// sparse reports whether a member has holes: a few bytes of an archive would
// become as many as it likes.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

func eachFile(source *os.Root, do func(name string, size int64, r io.Reader) error) error {
	return fs.WalkDir(source.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("reading the release: %w", err)
		}
		if entry.IsDir() {
			if name == "." || name == imagesDir {
				return nil
			}
			return fmt.Errorf("%w: %.200q is no part of a release", ErrContent, name)
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("%w: %.200q is no regular file", ErrContent, name)
		}
		return oneFile(source, name, do)
	})
}

func oneFile(source *os.Root, name string, do func(name string, size int64, r io.Reader) error) error {
	// A pipe that takes its place must keep nobody waiting.
	f, err := source.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("reading the release: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reading the release: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %.200q is no regular file", ErrContent, name)
	}
	return do(name, info.Size(), io.LimitReader(f, info.Size()))
}

// unpack copies the files into dir, which is empty.
func (s *Source) unpack(ctx context.Context, dir string, l *list) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(imagesDir, 0o700); err != nil {
		return err
	}
	u := &unpacker{root: root}
	if s.mirror != nil {
		return s.mirror.download(ctx, u, l)
	}
	var total int64
	for _, size := range l.sizes {
		total += size
	}
	if err := u.fits(total); err != nil {
		return err
	}
	return s.each(func(name string, size int64, r io.Reader) error {
		if known, verified := l.sizes[name]; !verified || known != size {
			return fmt.Errorf("%w: %s changed while it was imported", ErrContent, name)
		}
		return u.add(name, size, r)
	})
}

// fits returns an error when so many bytes would fill the disk.
func (u *unpacker) fits(bytes int64) error {
	d, err := u.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	var disk unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &disk); err != nil {
		return fmt.Errorf("measuring the room for the release: %w", err)
	}
	if free := int64(disk.Bavail) * int64(disk.Bsize); bytes > free-spare { //nolint:gosec // no disk has 8 EiB
		return fmt.Errorf("%w: it needs %d MiB, and %d MiB are free", ErrSpace, (bytes+spare)>>20, free>>20)
	}
	return nil
}

// add writes one file, which must not be there yet.
func (u *unpacker) add(name string, size int64, r io.Reader) error {
	u.files++
	u.bytes += size
	switch {
	case !validName(name):
		return fmt.Errorf("%w: %.200q is no file of a release", ErrContent, name)
	case size < 0 || u.files > maxFiles || u.bytes > maxBytes:
		return fmt.Errorf("%w: more than %d files or %d GiB", ErrContent, maxFiles, maxBytes>>30)
	}
	if err := u.fits(size); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s is there twice", ErrContent, name)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(name), err)
	}
	n, err := io.Copy(f, io.LimitReader(r, size))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("copying %s: %w", name, err)
	}
	return nil
}
