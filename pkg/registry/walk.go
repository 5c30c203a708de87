package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxDepth is how deep indexes may name indexes.
const maxDepth = 4

// walk calls visit, once for each, for everything that an image consists of,
// from its manifest or index on. It fails when a part is missing or has another
// size.
func walk(dir string, d v1.Descriptor, visit func(v1.Descriptor)) error {
	w := walker{dir: dir, visit: visit, seen: map[v1.Hash]bool{}}
	return w.walk(d, maxDepth)
}

type walker struct {
	dir   string
	visit func(v1.Descriptor)
	seen  map[v1.Hash]bool
}

func (w *walker) walk(d v1.Descriptor, depth int) error {
	if err := checkBlob(w.dir, d); err != nil {
		return err
	}
	if w.seen[d.Digest] {
		return nil
	}
	w.seen[d.Digest] = true
	w.visit(d)
	if depth == 0 || !d.MediaType.IsIndex() && !d.MediaType.IsImage() {
		return nil
	}
	children, err := children(w.dir, d)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := w.walk(child, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// children are the parts that a manifest or an index names.
func children(dir string, d v1.Descriptor) ([]v1.Descriptor, error) {
	data, err := readLimited(blobPath(dir, d.Digest))
	if err != nil {
		return nil, err
	}
	if d.MediaType.IsIndex() {
		index, err := v1.ParseIndexManifest(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("%w: index %s is damaged", ErrArchive, d.Digest)
		}
		return index.Manifests, nil
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: manifest %s is damaged", ErrArchive, d.Digest)
	}
	return append(manifest.Layers, manifest.Config), nil
}

func checkBlob(dir string, d v1.Descriptor) error {
	if d.Digest.Algorithm != "sha256" || !hexPattern.MatchString(d.Digest.Hex) {
		return fmt.Errorf("%w: %.100q is no SHA-256 digest", ErrArchive, d.Digest)
	}
	info, err := os.Stat(blobPath(dir, d.Digest))
	if err != nil {
		return fmt.Errorf("%w: %s is missing", ErrArchive, d.Digest)
	}
	if info.Size() != d.Size {
		return fmt.Errorf("%w: %s has %d bytes, not %d", ErrArchive, d.Digest, info.Size(), d.Size)
	}
	return nil
}

func blobPath(dir string, h v1.Hash) string { return filepath.Join(dir, blobsName, h.Hex) }

func marshal(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(data, '\n'), err
}
