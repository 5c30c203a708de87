package registry

import (
	"fmt"
	"strings"

	"cuelabs.dev/go/oci/ociregistry/ociref"
)

// Name is how an image is called in a store: a repository and a tag, without a
// registry.
type Name struct{ Repository, Tag string }

// String returns REPOSITORY:TAG.
func (n Name) String() string { return n.Repository + ":" + n.Tag }

// ParseName reads REPOSITORY[:TAG]. A registry before it is dropped: the image
// has that of the gateway from now on. The tag is latest when there is none.
func ParseName(s string) (Name, error) {
	first, rest, found := strings.Cut(s, "/")
	if found && (first == "localhost" || strings.ContainsAny(first, ".:")) {
		s = rest
	}
	repository, tag, tagged := strings.Cut(s, ":")
	if !tagged {
		tag = "latest"
	}
	// The library takes an empty tag for a bug of its caller.
	if tag == "" || strings.HasPrefix(first, ".") || !ociref.IsValidRepository(repository) || !ociref.IsValidTag(tag) {
		return Name{}, fmt.Errorf("%.200q is not the name of an image: it must have the form REPOSITORY:TAG", s)
	}
	return Name{repository, tag}, nil
}
