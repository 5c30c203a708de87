package registry

import (
	"context"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fleet.nationtech.io/fleet/pkg/registry/cache"
)

var (
	_ source = (*Store)(nil)
	_ source = (*cache.Cache)(nil)
)

// Tag implements source.
func (s *Store) Tag(_ context.Context, repository, tag string) (v1.Hash, error) {
	index, err := s.index()
	if err != nil {
		return v1.Hash{}, err
	}
	name := Name{repository, tag}.String()
	for _, d := range index.Manifests {
		if d.Annotations[annotationName] == name {
			return d.Digest, nil
		}
	}
	return v1.Hash{}, cache.ErrUnknown
}

// Manifest implements source.
func (s *Store) Manifest(_ context.Context, _ string, digest v1.Hash) ([]byte, error) {
	data, err := readLimited(blobPath(s.dir, digest))
	if err != nil {
		return nil, cache.ErrUnknown
	}
	return data, nil
}

// Has implements source: all that there is is here.
func (s *Store) Has(v1.Hash) bool { return true }

// Open implements source.
func (s *Store) Open(_ context.Context, _ string, d v1.Descriptor, from int64) (io.ReadCloser, error) {
	f, err := os.Open(blobPath(s.dir, d.Digest))
	if err != nil {
		return nil, cache.ErrUnknown
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("reading a blob: %w", err)
	}
	return f, nil
}
