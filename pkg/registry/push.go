package registry

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

// Source is where images come from; see OpenArchive and OpenRemote.
type Source interface {
	// fill writes the images into dir, an empty image layout, and returns their
	// descriptors. Those whose name the source knows have annotationName.
	fill(dir string) ([]v1.Descriptor, error)
	// base is the name of an image whose name the source does not know.
	base() string
}

// Push stores the images of a source. An image is called name, or else, when
// that is zero, as the source calls it. It returns the names. Errors wrap
// ErrBusy, ErrArchive or ErrSpace, or come from the disk or the network.
func (s *Store) Push(source Source, name Name) ([]Name, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	work, err := os.MkdirTemp(s.dir, pushPrefix)
	if err != nil {
		return nil, fmt.Errorf("storing the image: %w", err)
	}
	defer os.RemoveAll(work) //nolint:errcheck // the next command removes it
	if err := os.MkdirAll(filepath.Join(work, blobsName), 0o700); err != nil {
		return nil, fmt.Errorf("storing the image: %w", err)
	}
	images, err := source.fill(work)
	if err != nil {
		return nil, err
	}
	names, err := nameAll(images, source.base(), name)
	if err != nil {
		return nil, err
	}
	for _, d := range images {
		if err := walk(work, d, func(v1.Descriptor) {}); err != nil {
			return nil, err
		}
	}
	if err := s.adopt(work); err != nil {
		return nil, err
	}
	return names, s.add(images, names)
}

// nameAll gives each image the name that it will have in the store.
func nameAll(images []v1.Descriptor, base string, name Name) ([]Name, error) {
	if len(images) == 0 {
		return nil, fmt.Errorf("%w: there is no image in it", ErrArchive)
	}
	if name != (Name{}) {
		if len(images) > 1 {
			return nil, fmt.Errorf("there are %d images in it: they cannot all be %s", len(images), name)
		}
		return []Name{name}, nil
	}
	var names []Name
	for _, d := range images {
		called := cmp.Or(d.Annotations[annotationFull], d.Annotations[annotationName], "latest")
		if !strings.ContainsAny(called, "/:") {
			called = base + ":" + called // a tag alone
		}
		n, err := ParseName(called)
		if err != nil {
			return nil, fmt.Errorf("%w: choose one with --name", err)
		}
		names = append(names, n)
	}
	return names, nil
}

// adopt moves blobs into the store. They are on the disk before they have their
// names: a blob's name is its content, so that those which are there stay, and one
// that a power cut had emptied would, too.
func (s *Store) adopt(work string) error {
	blobs, err := os.ReadDir(filepath.Join(work, blobsName))
	if err != nil {
		return fmt.Errorf("storing the image: %w", err)
	}
	if err := syncAll(work); err != nil {
		return fmt.Errorf("storing the image: %w", err)
	}
	for _, b := range blobs {
		target := filepath.Join(s.dir, blobsName, b.Name())
		if _, err := os.Stat(target); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.Rename(filepath.Join(work, blobsName, b.Name()), target); err != nil {
			return fmt.Errorf("storing the image: %w", err)
		}
	}
	return atomicfile.SyncDir(filepath.Join(s.dir, blobsName))
}

// syncAll brings everything that was written below a directory to the disk.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// add puts images into the index, in the place of others of their names.
func (s *Store) add(images []v1.Descriptor, names []Name) error {
	index, err := s.index()
	if err != nil {
		return err
	}
	for i, d := range images {
		name := names[i].String()
		index.Manifests = slices.DeleteFunc(index.Manifests, func(old v1.Descriptor) bool { return old.Annotations[annotationName] == name })
		d.Annotations = map[string]string{annotationName: name}
		index.Manifests = append(index.Manifests, d)
	}
	return s.writeIndex(index)
}
