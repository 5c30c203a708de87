package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"cuelabs.dev/go/oci/ociregistry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// backend answers the protocol's questions from a store. It reads only.
func (s *Store) backend() ociregistry.Interface {
	return &ociregistry.Funcs{
		GetBlob_: func(_ context.Context, _ string, digest ociregistry.Digest) (ociregistry.BlobReader, error) {
			return s.blob(digest, 0, -1)
		},
		GetBlobRange_: func(_ context.Context, _ string, digest ociregistry.Digest, from, to int64) (ociregistry.BlobReader, error) {
			return s.blob(digest, from, to)
		},
		ResolveBlob_: func(_ context.Context, _ string, digest ociregistry.Digest) (ociregistry.Descriptor, error) {
			return descriptorOf(s.blob(digest, 0, -1))
		},
		GetManifest_: func(_ context.Context, _ string, digest ociregistry.Digest) (ociregistry.BlobReader, error) {
			return s.manifest(digest)
		},
		ResolveManifest_: func(_ context.Context, _ string, digest ociregistry.Digest) (ociregistry.Descriptor, error) {
			return descriptorOf(s.manifest(digest))
		},
		GetTag_: func(_ context.Context, repository, tag string) (ociregistry.BlobReader, error) {
			return s.tag(Name{repository, tag})
		},
		ResolveTag_: func(_ context.Context, repository, tag string) (ociregistry.Descriptor, error) {
			return descriptorOf(s.tag(Name{repository, tag}))
		},
	}
}

// descriptorOf is for requests that want no content.
func descriptorOf(r ociregistry.BlobReader, err error) (ociregistry.Descriptor, error) {
	if err != nil {
		return ociregistry.Descriptor{}, err
	}
	defer r.Close()
	return r.Descriptor(), nil
}

// reader is a part of a blob.
type reader struct {
	io.Reader
	io.Closer

	descriptor ociregistry.Descriptor
}

// Descriptor implements ociregistry.BlobReader. It is that of the whole blob.
func (r *reader) Descriptor() ociregistry.Descriptor { return r.descriptor }

// blob opens a blob. Which repository it is asked for in does not matter: a
// device may have every image.
func (s *Store) blob(digest ociregistry.Digest, from, to int64) (ociregistry.BlobReader, error) {
	h, err := v1.NewHash(string(digest))
	if err != nil || h.Algorithm != "sha256" || !hexPattern.MatchString(h.Hex) {
		return nil, ociregistry.ErrDigestInvalid
	}
	f, err := os.Open(blobPath(s.dir, h))
	if err != nil {
		return nil, ociregistry.ErrBlobUnknown
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	if to < 0 || to > info.Size() {
		to = info.Size()
	}
	return &reader{
		io.NewSectionReader(f, from, max(0, to-from)), f,
		ociregistry.Descriptor{MediaType: "application/octet-stream", Digest: digest, Size: info.Size()},
	}, nil
}

// manifest opens a blob that is a manifest or an index, with its type.
func (s *Store) manifest(digest ociregistry.Digest) (ociregistry.BlobReader, error) {
	blob, err := s.blob(digest, 0, -1)
	if errors.Is(err, ociregistry.ErrBlobUnknown) {
		return nil, ociregistry.ErrManifestUnknown
	}
	if err != nil {
		return nil, err
	}
	r, ok := blob.(*reader)
	if !ok || r.descriptor.Size > maxManifest {
		_ = blob.Close()
		return nil, ociregistry.ErrManifestUnknown
	}
	kind, err := mediaTypeOf(r)
	if err != nil {
		_ = blob.Close()
		return nil, err
	}
	r.descriptor.MediaType = string(kind)
	return r, nil
}

// mediaTypeOf reads the type of a manifest, and goes back to its beginning.
func mediaTypeOf(r *reader) (types.MediaType, error) {
	var m struct {
		MediaType types.MediaType   `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
		Layers    []json.RawMessage `json:"layers"`
	}
	if err := json.NewDecoder(r).Decode(&m); err != nil {
		return "", ociregistry.ErrManifestUnknown
	}
	switch {
	case m.MediaType.IsIndex() || m.MediaType.IsImage():
	case m.MediaType == "" && m.Manifests != nil: // OCI allows it to be left out
		m.MediaType = types.OCIImageIndex
	case m.MediaType == "" && m.Layers != nil:
		m.MediaType = types.OCIManifestSchema1
	default:
		return "", ociregistry.ErrManifestUnknown
	}
	seeker, ok := r.Reader.(io.Seeker)
	if !ok {
		return "", ociregistry.ErrManifestUnknown
	}
	_, err := seeker.Seek(0, io.SeekStart)
	return m.MediaType, err
}

// tag opens the manifest that a name stands for.
func (s *Store) tag(name Name) (ociregistry.BlobReader, error) {
	index, err := s.index()
	if err != nil {
		return nil, err
	}
	for _, d := range index.Manifests {
		if d.Annotations[annotationName] == name.String() {
			return s.manifest(ociregistry.Digest(d.Digest.String()))
		}
	}
	return nil, ociregistry.ErrManifestUnknown
}
