package cache

import v1 "github.com/google/go-containerregistry/pkg/v1"

// PartName is the name of the file of a fetch.
func PartName(repository string, d v1.Descriptor) string {
	return origin{repository, d.Digest, d.Size}.file()
}
