package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// errNoPart: what is looked for is no part of an image.
var errNoPart = errors.New("no part of these images")

// search looks for a part of images.
type search struct {
	source

	repository string
	want       v1.Hash
	// asked is how many manifests were looked at.
	asked int
}

// maxManifests bounds the manifests that one search looks at: an index may name thousands.
const maxManifests = 256

// among looks for it among all that roots consist of. It first looks at what is here: whoever
// asks for a layer has asked for its manifest before.
func (s *search) among(ctx context.Context, roots []v1.Hash) (v1.Descriptor, error) {
	found, missing, err := s.below(ctx, roots, maxDepth, false)
	if errors.Is(err, errNoPart) && missing {
		found, _, err = s.below(ctx, roots, maxDepth, true)
	}
	return found, err
}

// below looks below manifests and indexes. With fetch it asks others for what is not here;
// otherwise it reports whether anything is missing.
func (s *search) below(ctx context.Context, roots []v1.Hash, depth int, fetch bool) (found v1.Descriptor, missing bool, err error) {
	var next []v1.Hash
	failed := errNoPart
	for _, root := range roots {
		if !fetch && !s.Has(root) && root != s.want {
			missing = true
			continue
		}
		found, manifests, err := s.in(ctx, root)
		if err == nil {
			return found, missing, nil
		}
		if !errors.Is(err, errNoPart) {
			failed = err // another root may have it
		}
		next = append(next, manifests...)
	}
	if depth > 0 && len(next) > 0 {
		found, below, err := s.below(ctx, next, depth-1, fetch)
		if !errors.Is(err, errNoPart) {
			return found, missing || below, err
		}
		missing = missing || below
	}
	return v1.Descriptor{}, missing, failed
}

// in looks at what one manifest or index says, and returns the manifests that it names.
func (s *search) in(ctx context.Context, root v1.Hash) (found v1.Descriptor, manifests []v1.Hash, err error) {
	if s.asked++; s.asked > maxManifests || ctx.Err() != nil {
		return v1.Descriptor{}, nil, errNoPart
	}
	data, err := s.Manifest(ctx, s.repository, root)
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	kind, children, err := parts(data)
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	if root == s.want {
		return v1.Descriptor{Digest: root, Size: int64(len(data)), MediaType: kind}, nil, nil
	}
	for _, child := range children {
		if child.Digest == s.want {
			return child, nil, nil
		}
		if child.MediaType.IsIndex() || child.MediaType.IsImage() {
			manifests = append(manifests, child.Digest)
		}
	}
	return v1.Descriptor{}, manifests, errNoPart
}

// parts returns the type of a manifest or an index, and what it consists of.
func parts(data []byte) (types.MediaType, []v1.Descriptor, error) {
	kind, err := kindOf(data)
	if err != nil {
		return "", nil, err
	}
	if kind.IsIndex() {
		index, err := v1.ParseIndexManifest(bytes.NewReader(data))
		if err != nil {
			return "", nil, fmt.Errorf("%w: an index is damaged", ErrArchive)
		}
		return kind, index.Manifests, nil
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return "", nil, fmt.Errorf("%w: a manifest is damaged", ErrArchive)
	}
	return kind, append(manifest.Layers, manifest.Config), nil
}

// kindOf is the type of a manifest or an index, which OCI allows to be left out.
func kindOf(data []byte) (types.MediaType, error) {
	var m struct {
		MediaType types.MediaType   `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
		Layers    []json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return "", fmt.Errorf("%w: it is no manifest", ErrArchive)
	}
	switch {
	case m.MediaType.IsIndex() || m.MediaType.IsImage():
		return m.MediaType, nil
	case m.MediaType == "" && m.Manifests != nil:
		return types.OCIImageIndex, nil
	case m.MediaType == "" && m.Layers != nil:
		return types.OCIManifestSchema1, nil
	}
	return "", fmt.Errorf("%w: it is no manifest", ErrArchive)
}
