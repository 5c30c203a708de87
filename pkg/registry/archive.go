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
	"golang.org/x/sys/unix"
)

const (
	// Bounds of an archive: files, and bytes of all of them.
	maxBlobs = 10000
	maxBytes = 64 << 30
	// maxLayers bounds the layers of an image; what runs it takes fewer.
	maxLayers = 1000
	// spare is what stays free on the disk of the store, in bytes.
	spare = 64 << 20
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
	return section{io.NewSectionReader(a.file, 0, info.Size())}, nil
}

// section can be sought in, so that what is skipped in an archive is not read.
type section struct{ *io.SectionReader }

func (section) Close() error { return nil }

func (a *Archive) fill(dir string) (added []v1.Descriptor, err error) {
	defer func() {
		if r := recover(); r != nil { // the library trusts lists to be as long as each other
			added, err = nil, fmt.Errorf("%w: %v", ErrArchive, r)
		}
	}()
	c, err := a.contents()
	if err != nil {
		return nil, err
	}
	if err := fits(dir, c.bytes); err != nil {
		return nil, err
	}
	if _, oci := c.sizes[indexName]; oci {
		return a.fillFromOCI(dir)
	}
	return a.fillFromDocker(dir, c)
}

// contents is what an archive has.
type contents struct {
	sizes map[string]int64
	links map[string]string
	bytes int64
}

// contents reads the archive to its end, so that a damaged one is found out.
// No file may have holes, so that what comes out of it is no more than what it
// is, and nothing is written before that is known.
func (a *Archive) contents() (*contents, error) {
	c := &contents{sizes: map[string]int64{}, links: map[string]string{}}
	err := a.members(func(h *tar.Header, _ io.Reader) error {
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			c.sizes[name] = h.Size
			c.bytes += h.Size
		case tar.TypeSymlink, tar.TypeLink:
			c.links[name] = path.Join(path.Dir(name), path.Clean(h.Linkname))
		}
		if len(c.sizes)+len(c.links) > 2*maxBlobs || c.bytes > maxBytes {
			return fmt.Errorf("%w: more than %d files or %d GiB", ErrArchive, 2*maxBlobs, maxBytes>>30)
		}
		return nil
	})
	return c, err
}

// size is that of a file, which the library reads through links.
func (c *contents) size(name string) int64 {
	name = path.Clean(name)
	for range maxDepth {
		target, link := c.links[name]
		if !link {
			break
		}
		name = target
	}
	return c.sizes[name]
}

// fits returns an error when so many bytes would fill the disk.
func fits(dir string, bytes int64) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return fmt.Errorf("measuring the room for the image: %w", err)
	}
	if free := int64(disk.Bavail) * int64(disk.Bsize); bytes > free-spare { //nolint:gosec // no disk has 8 EiB
		return fmt.Errorf("%w: it needs %d MiB, and %d MiB are free", ErrSpace, (bytes+spare)>>20, free>>20)
	}
	return nil
}

// each calls do for every regular file in the archive.
func (a *Archive) each(do func(name string, size int64, r io.Reader) error) error {
	return a.members(func(h *tar.Header, r io.Reader) error {
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		return do(path.Clean(h.Name), h.Size, r)
	})
}

// members calls do for everything in the archive.
func (a *Archive) members(do func(h *tar.Header, r io.Reader) error) error {
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
		if sparse(h) {
			return fmt.Errorf("%w: %.200q has holes", ErrArchive, h.Name)
		}
		if err := do(h, archive); err != nil {
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
func (a *Archive) fillFromDocker(dir string, c *contents) ([]v1.Descriptor, error) {
	if c.size("manifest.json") > maxManifest {
		return nil, fmt.Errorf("%w: manifest.json is longer than %d bytes", ErrArchive, maxManifest)
	}
	manifest, err := tarball.LoadManifest(a.open)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrArchive, err)
	}
	var all []v1.Descriptor
	for _, d := range manifest {
		if len(d.RepoTags) == 0 && len(manifest) > 1 {
			return nil, fmt.Errorf("%w: one of several images has no name", ErrArchive)
		}
		if err := c.checkWork(d); err != nil {
			return nil, err
		}
		called := ""
		if len(d.RepoTags) > 0 {
			called = d.RepoTags[0]
		}
		added, err := a.fillOne(dir, called)
		if err != nil {
			return nil, err
		}
		all = append(all, named(added, d.RepoTags)...)
	}
	return all, nil
}

// checkWork refuses an image that takes more work than its archive is worth: a
// list may name one layer over and over.
func (c *contents) checkWork(d tarball.Descriptor) error {
	if len(d.Layers) > maxLayers {
		return fmt.Errorf("%w: an image has more than %d layers", ErrArchive, maxLayers)
	}
	if c.size(d.Config) > maxManifest {
		return fmt.Errorf("%w: %.200q is longer than %d bytes", ErrArchive, d.Config, maxManifest)
	}
	var bytes int64
	for _, layer := range d.Layers {
		bytes += c.size(layer)
	}
	if bytes > c.bytes+spare {
		return fmt.Errorf("%w: an image has the same layers again and again", ErrArchive)
	}
	return nil
}

// named returns the one image under each of its names.
func named(image []v1.Descriptor, names []string) []v1.Descriptor {
	if len(names) == 0 {
		return image
	}
	var all []v1.Descriptor
	for _, name := range names {
		for _, d := range image {
			d.Annotations = map[string]string{annotationName: name}
			all = append(all, d)
		}
	}
	return all
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
