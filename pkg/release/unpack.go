package release

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

const (
	imagesDir = "images"
	// Bounds of a release: files, and bytes of all of them.
	maxFiles = 1000
	maxBytes = 64 << 30
)

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

// unpack copies the files into dir, which is empty.
func (s *Source) unpack(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(imagesDir, 0o700); err != nil {
		return err
	}
	u := &unpacker{root: root}
	switch {
	case s.mirror != nil:
		return s.mirror.download(ctx, u)
	case s.dir != nil:
		return u.directory(s.dir)
	}
	return u.archive(tar.NewReader(s.archive))
}

func (u *unpacker) archive(r *tar.Reader) error {
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
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("%w: %.200q in the archive is no regular file", ErrContent, h.Name)
		}
		if err := u.add(name, h.Size, r); err != nil {
			return err
		}
	}
}

func (u *unpacker) directory(source *os.Root) error {
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
		return u.addFile(source, name)
	})
}

func (u *unpacker) addFile(source *os.Root, name string) error {
	f, err := source.Open(name)
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
	return u.add(name, info.Size(), f)
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
