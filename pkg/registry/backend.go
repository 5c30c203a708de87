package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"

	"cuelabs.dev/go/oci/ociregistry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fleet.nationtech.io/fleet/pkg/registry/cache"
)

// source is where the images of a repository are.
type source interface {
	// Tag returns the digest that a tag stands for.
	Tag(ctx context.Context, repository, tag string) (v1.Hash, error)
	// Manifest returns a manifest or an index.
	Manifest(ctx context.Context, repository string, digest v1.Hash) ([]byte, error)
	// Has reports whether that needs nobody else.
	Has(digest v1.Hash) bool
	// Open opens a blob from an offset on. The descriptor is that of the manifest.
	Open(ctx context.Context, repository string, d v1.Descriptor, from int64) (io.ReadCloser, error)
}

// backend answers the protocol's questions. It answers each device for the images that its
// manifest names, and changes nothing but what the cache has.
type backend struct {
	Site

	recent *recent
}

func (b *backend) questions() ociregistry.Interface {
	return &ociregistry.Funcs{
		GetBlob_: func(ctx context.Context, repository string, digest ociregistry.Digest) (ociregistry.BlobReader, error) {
			return b.blob(ctx, repository, digest, 0, -1)
		},
		GetBlobRange_: func(ctx context.Context, repository string, digest ociregistry.Digest, from, to int64) (ociregistry.BlobReader, error) {
			return b.blob(ctx, repository, digest, from, to)
		},
		ResolveBlob_: func(ctx context.Context, repository string, digest ociregistry.Digest) (ociregistry.Descriptor, error) {
			d, err := b.find(ctx, repository, digest)
			return described(d, octets), err
		},
		GetManifest_:     b.manifest,
		ResolveManifest_: descriptorOf(b.manifest),
		GetTag_:          b.tag,
		ResolveTag_:      descriptorOf(b.tag),
	}
}

// octets is the type of a blob that is nothing more.
const octets = "application/octet-stream"

// descriptorOf is for requests that want no content.
func descriptorOf[N any](get func(context.Context, string, N) (ociregistry.BlobReader, error)) func(context.Context, string, N) (ociregistry.Descriptor, error) {
	return func(ctx context.Context, repository string, n N) (ociregistry.Descriptor, error) {
		r, err := get(ctx, repository, n)
		if err != nil {
			return ociregistry.Descriptor{}, err
		}
		defer r.Close()
		return r.Descriptor(), nil
	}
}

func described(d v1.Descriptor, kind string) ociregistry.Descriptor {
	return ociregistry.Descriptor{MediaType: kind, Digest: ociregistry.Digest(d.Digest.String()), Size: d.Size}
}

// reader is a part of a blob.
type reader struct {
	io.Reader
	io.Closer

	descriptor ociregistry.Descriptor
}

// Descriptor implements ociregistry.BlobReader. It is that of the whole blob.
func (r *reader) Descriptor() ociregistry.Descriptor { return r.descriptor }

// from returns where the images of a repository are.
func (b *backend) from(repository string) source {
	if b.Cache.Serves(repository) {
		return b.Cache
	}
	return b.Store
}

// blob opens a part of a blob; to is its end, or negative for that of the blob.
func (b *backend) blob(ctx context.Context, repository string, digest ociregistry.Digest, from, to int64) (ociregistry.BlobReader, error) {
	d, err := b.find(ctx, repository, digest)
	if err != nil {
		return nil, err
	}
	if to < 0 || to > d.Size {
		to = d.Size
	}
	content, err := b.from(repository).Open(ctx, repository, d, min(from, d.Size))
	if err != nil {
		return nil, answer(err, ociregistry.ErrBlobUnknown)
	}
	return &reader{io.LimitReader(content, max(0, to-from)), content, described(d, octets)}, nil
}

// manifest opens a manifest or an index.
func (b *backend) manifest(ctx context.Context, repository string, digest ociregistry.Digest) (ociregistry.BlobReader, error) {
	d, err := b.find(ctx, repository, digest)
	if err != nil {
		return nil, err
	}
	return b.open(ctx, repository, d.Digest)
}

func (b *backend) open(ctx context.Context, repository string, digest v1.Hash) (ociregistry.BlobReader, error) {
	data, err := b.from(repository).Manifest(ctx, repository, digest)
	if err != nil {
		return nil, answer(err, ociregistry.ErrManifestUnknown)
	}
	kind, _, err := parts(data)
	if err != nil {
		return nil, ociregistry.ErrManifestUnknown
	}
	d := v1.Descriptor{Digest: digest, Size: int64(len(data))}
	return &reader{bytes.NewReader(data), io.NopCloser(nil), described(d, string(kind))}, nil
}

// tag opens the manifest that a tag stands for.
func (b *backend) tag(ctx context.Context, repository, tag string) (ociregistry.BlobReader, error) {
	device := deviceOf(ctx)
	may, err := b.grant(device, repository)
	if err != nil {
		return nil, err
	}
	if signed, is := signedBy(tag); is && !slices.Contains(may.tags, tag) {
		_, err = b.find(ctx, repository, ociregistry.Digest(signed.String()))
	} else if !is && !slices.Contains(may.tags, tag) {
		err = denied(device, repository)
	}
	if err != nil {
		return nil, err
	}
	digest, err := b.from(repository).Tag(ctx, repository, tag)
	if err != nil {
		return nil, answer(err, ociregistry.ErrManifestUnknown)
	}
	b.recent.note(repository, tag, digest)
	return b.open(ctx, repository, digest)
}

// find returns what the images that a device may have of a repository say of one of their
// parts.
func (b *backend) find(ctx context.Context, repository string, digest ociregistry.Digest) (v1.Descriptor, error) {
	want, err := v1.NewHash(string(digest))
	if err != nil || want.Algorithm != "sha256" || !hexPattern.MatchString(want.Hex) {
		return v1.Descriptor{}, ociregistry.ErrDigestInvalid
	}
	device := deviceOf(ctx)
	may, err := b.grant(device, repository)
	if err != nil {
		return v1.Descriptor{}, err
	}
	s := search{source: b.from(repository), repository: repository, want: want}
	roots, err := b.roots(ctx, &s, may)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if len(roots) == 0 {
		return v1.Descriptor{}, denied(device, repository)
	}
	found, err := s.among(ctx, roots)
	if errors.Is(err, errNoPart) {
		found, err = b.findSignature(ctx, s, roots)
	}
	switch {
	case errors.Is(err, errNoPart):
		return v1.Descriptor{}, denied(device, repository)
	case err != nil:
		return v1.Descriptor{}, answer(err, ociregistry.ErrManifestUnknown)
	}
	return found, nil
}

// roots are the digests of all that a device may have of a repository.
func (b *backend) roots(ctx context.Context, s *search, may grant) ([]v1.Hash, error) {
	roots := slices.Clone(may.digests)
	for _, tag := range may.tags {
		roots = append(roots, b.recent.of(s.repository, tag)...)
		digest, err := s.Tag(ctx, s.repository, tag)
		switch {
		case err == nil:
			roots = append(roots, digest)
		case len(roots) == 0 && !errors.Is(err, cache.ErrUnknown):
			return nil, answer(err, ociregistry.ErrManifestUnknown)
		}
	}
	return roots, nil
}

// findSignature looks for a part of the signatures of what a device may have.
func (b *backend) findSignature(ctx context.Context, s search, roots []v1.Hash) (v1.Descriptor, error) {
	for _, tag := range b.recent.signatures(s.repository) {
		signed, _ := signedBy(tag)
		of := s
		of.want = signed
		if _, err := of.among(ctx, roots); err != nil {
			continue
		}
		if found, err := s.among(ctx, b.recent.of(s.repository, tag)); err == nil {
			return found, nil
		}
	}
	return v1.Descriptor{}, errNoPart
}

// answer turns an error of a source into what the protocol says; unknown is for what is not
// there.
func answer(err, unknown error) error {
	switch {
	case errors.Is(err, cache.ErrUnknown):
		return unknown
	case errors.Is(err, cache.ErrSpace):
		return ociregistry.NewHTTPError(err, http.StatusInsufficientStorage, nil, nil)
	case errors.Is(err, cache.ErrRefused), errors.Is(err, cache.ErrUnavailable):
		return ociregistry.NewHTTPError(err, http.StatusBadGateway, nil, nil)
	}
	return err
}
