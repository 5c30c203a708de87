// Package registry holds container images for the devices of a site, and serves
// them in the protocol of OCI registries. It is part of the server.
//
// A store is an OCI image layout: a directory with index.json, which names the
// images, and their blobs. An image is complete before the index names it. So
// the command that pushes one needs no running server, and a running server
// serves it with the next request.
package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

const (
	indexName = "index.json"
	blobsName = "blobs/sha256"
	lockName  = "lock"
	// pushPrefix is how the directory begins where a push gathers blobs.
	pushPrefix = ".push-"
	// annotationName is where an index says how an image is called.
	annotationName = "org.opencontainers.image.ref.name"
	// annotationFull is where docker save says so; it has a tag at annotationName.
	annotationFull = "io.containerd.image.name"
	// maxManifest bounds a manifest and an index, in bytes.
	maxManifest = 4 << 20
)

// Errors of a Store; match them with errors.Is.
var (
	// ErrBusy: another command changes the store.
	ErrBusy = errors.New("another command works on the images: try again when it is done")
	// ErrNotFound: no image has this name.
	ErrNotFound = errors.New("no such image")
	// ErrArchive: the file is no image, or a damaged one.
	ErrArchive = errors.New("not a complete OCI archive or docker archive")
	// ErrSpace: the images do not fit on the disk.
	ErrSpace = errors.New("there is not enough room for the image")
)

// Image is an image in a store.
type Image struct {
	Name   Name
	Digest string
	// Platforms are os/arch; of an image for one platform there is one.
	Platforms []string
	// Size is that of all its blobs in bytes; images share blobs.
	Size int64
}

// Store is the images of a gateway. Its directory need not exist.
type Store struct{ dir string }

// Open returns the store in a server's data directory.
func Open(dataDir string) *Store { return &Store{filepath.Join(dataDir, "images")} }

// List returns the images by name.
func (s *Store) List() ([]Image, error) {
	index, err := s.index()
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, d := range index.Manifests {
		name, err := ParseName(d.Annotations[annotationName])
		if err != nil {
			continue // not ours
		}
		image := Image{Name: name, Digest: d.Digest.String()}
		err = walk(s.dir, d, func(d v1.Descriptor) {
			image.Size += d.Size
			if p := d.Platform; p != nil && p.OS != "unknown" {
				image.Platforms = append(image.Platforms, p.OS+"/"+p.Architecture)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("reading image %s: %w", name, err)
		}
		images = append(images, image)
	}
	slices.SortFunc(images, func(a, b Image) int { return strings.Compare(a.Name.String(), b.Name.String()) })
	return images, nil
}

// Remove forgets the names of images; GC then frees what they took.
func (s *Store) Remove(names ...Name) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	index, err := s.index()
	if err != nil {
		return err
	}
	for _, name := range names {
		before := len(index.Manifests)
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[annotationName] == name.String() })
		if len(index.Manifests) == before {
			return fmt.Errorf("%w: %s", ErrNotFound, name)
		}
	}
	return s.writeIndex(index)
}

// GC removes the blobs that no image needs, and what interrupted pushes left.
// It returns how many bytes that freed.
func (s *Store) GC() (freed int64, err error) {
	unlock, err := s.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	index, err := s.index()
	if err != nil {
		return 0, err
	}
	needed := map[string]bool{}
	for _, d := range index.Manifests {
		if err := walk(s.dir, d, func(d v1.Descriptor) { needed[d.Digest.Hex] = true }); err != nil {
			return 0, fmt.Errorf("reading image %s: %w: push it again or remove it", d.Annotations[annotationName], err)
		}
	}
	return s.removeBlobs(needed)
}

func (s *Store) removeBlobs(needed map[string]bool) (freed int64, err error) {
	blobs, err := os.ReadDir(filepath.Join(s.dir, blobsName))
	if err != nil {
		return 0, fmt.Errorf("collecting images: %w", err)
	}
	for _, b := range blobs {
		info, err := b.Info()
		if err != nil || needed[b.Name()] {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, blobsName, b.Name())); err != nil {
			return freed, fmt.Errorf("collecting images: %w", err)
		}
		freed += info.Size()
	}
	return freed, nil
}

// lock keeps other commands out, and removes what interrupted pushes left.
func (s *Store) lock() (unlock func(), err error) {
	if _, err := os.Stat(filepath.Dir(s.dir)); err != nil {
		return nil, fmt.Errorf("opening the images: %w: has the server run here?", err)
	}
	if err := os.MkdirAll(filepath.Join(s.dir, blobsName), 0o700); err != nil {
		return nil, fmt.Errorf("opening the images: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the images: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("opening the images: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, pushPrefix+"*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("removing what an interrupted push left: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// index returns the index, which is empty at first.
func (s *Store) index() (*v1.IndexManifest, error) { return readIndex(s.dir) }

func readIndex(dir string) (*v1.IndexManifest, error) {
	data, err := readLimited(filepath.Join(dir, indexName))
	if errors.Is(err, fs.ErrNotExist) {
		return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the index of images: %w", err)
	}
	index, err := v1.ParseIndexManifest(strings.NewReader(string(data)))
	if err != nil {
		return nil, fmt.Errorf("reading the index of images: %s is damaged: push the images again", filepath.Join(dir, indexName))
	}
	return index, nil
}

func (s *Store) writeIndex(index *v1.IndexManifest) error {
	data, err := marshal(index)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.dir, indexName), data, 0o600)
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = fmt.Errorf("%s is longer than %d bytes", filepath.Base(path), maxManifest)
	}
	return data, err
}
