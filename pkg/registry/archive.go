package registry

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Bounds of an archive: blobs, and bytes of all of them.
const (
	maxBlobs = 10000
	maxBytes = 64 << 30
)

var hexPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Archive is a file with images, as podman save and docker save write it.
type Archive struct {
	file *os.File
	name string
}

// OpenArchive opens an OCI archive or a docker archive. What follows needs no
// more rights.
func OpenArchive(path string) (*Archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the image: %w", err)
	}
	name, _, _ := strings.Cut(strings.ToLower(filepath.Base(path)), ".tar")
	return &Archive{f, name}, nil
}

// Close closes the file.
func (a *Archive) Close() error { return a.file.Close() }

func (a *Archive) base() string { return a.name }

// open opens the archive from its beginning, as often as it has to be read.
func (a *Archive) open() (io.ReadCloser, error) {
	info, err := a.file.Stat()
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.NewSectionReader(a.file, 0, info.Size())), nil
}

func (a *Archive) fill(dir string) (added []v1.Descriptor, err error) {
	defer func() {
		if r := recover(); r != nil { // the library trusts lists to be as long as each other
			added, err = nil, fmt.Errorf("%w: %v", ErrArchive, r)
		}
	}()
	oci, err := a.has(indexName)
	if err != nil {
		return nil, err
	}
	if oci {
		return a.fillFromOCI(dir)
	}
	return a.fillFromDocker(dir)
}

// has reports whether a file is in the archive. It reads on to the end, so
// that a damaged archive is found out.
func (a *Archive) has(file string) (found bool, err error) {
	err = a.each(func(name string, _ int64, _ io.Reader) error {
		found = found || name == file
		return nil
	})
	return found, err
}

// each calls do for every regular file in the archive.
func (a *Archive) each(do func(name string, size int64, r io.Reader) error) error {
	r, err := a.open()
	if err != nil {
		return err
	}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrArchive, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := do(path.Clean(h.Name), h.Size, archive); err != nil {
			return err
		}
	}
}

// fillFromOCI copies the blobs, whose names must be those of their content, and
// the index.
func (a *Archive) fillFromOCI(dir string) ([]v1.Descriptor, error) {
	blobs, bytes := 0, int64(0)
	err := a.each(func(name string, size int64, r io.Reader) error {
		digest, isBlob := strings.CutPrefix(name, blobsName+"/")
		if !isBlob && name != indexName {
			return nil
		}
		blobs, bytes = blobs+1, bytes+size
		if blobs > maxBlobs || bytes > maxBytes {
			return fmt.Errorf("%w: more than %d blobs or %d GiB", ErrArchive, maxBlobs, maxBytes>>30)
		}
		if name == indexName {
			return copyFile(filepath.Join(dir, indexName), io.LimitReader(r, maxManifest+1), "")
		}
		if !hexPattern.MatchString(digest) {
			return fmt.Errorf("%w: %.200q is no name of a blob", ErrArchive, name)
		}
		return copyFile(filepath.Join(dir, blobsName, digest), r, digest)
	})
	if err != nil {
		return nil, err
	}
	index, err := readIndex(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrArchive, err)
	}
	return index.Manifests, nil
}

// copyFile writes a file that is not there yet. Its content must have the digest,
// unless that is empty.
func copyFile(path string, r io.Reader, digest string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: %s is there twice", ErrArchive, filepath.Base(path))
	}
	if err != nil {
		return fmt.Errorf("storing the image: %w", err)
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), r)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("storing the image: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); digest != "" && got != digest {
		return fmt.Errorf("%w: blob %s has another content", ErrArchive, digest)
	}
	return nil
}

// fillFromDocker makes OCI's form of what docker save wrote: layers get
// compressed.
func (a *Archive) fillFromDocker(dir string) ([]v1.Descriptor, error) {
	manifest, err := tarball.LoadManifest(a.open)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrArchive, err)
	}
	var all []v1.Descriptor
	for _, d := range manifest {
		if len(d.RepoTags) == 0 && len(manifest) > 1 {
			return nil, fmt.Errorf("%w: one of several images has no name", ErrArchive)
		}
		if len(d.RepoTags) == 0 {
			added, err := a.fillOne(dir, "")
			return append(all, added...), err
		}
		for _, tag := range d.RepoTags {
			added, err := a.fillOne(dir, tag)
			if err != nil {
				return nil, err
			}
			all = append(all, added...)
		}
	}
	return all, nil
}

func (a *Archive) fillOne(dir, called string) ([]v1.Descriptor, error) {
	var tag *name.Tag
	if called != "" {
		t, err := name.NewTag(called)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrArchive, err)
		}
		tag = &t
	}
	image, err := tarball.Image(a.open, tag)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrArchive, err)
	}
	return appendImage(dir, image, called)
}

// appendImage writes the blobs of an image.
func appendImage(dir string, image v1.Image, called string) ([]v1.Descriptor, error) {
	if err := layout.Path(dir).WriteImage(image); err != nil {
		return nil, fmt.Errorf("storing the image: %w", err)
	}
	d, err := describe(image)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrArchive, err)
	}
	if called != "" {
		d.Annotations = map[string]string{annotationName: called}
	}
	return []v1.Descriptor{*d}, nil
}

func describe(image v1.Image) (*v1.Descriptor, error) {
	manifest, err := image.RawManifest()
	if err != nil {
		return nil, err
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	kind, err := image.MediaType()
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	return &v1.Descriptor{
		MediaType: kind, Digest: digest, Size: int64(len(manifest)),
		Platform: &v1.Platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant},
	}, nil
}
