package registry

import (
	"context"
	"fmt"
	"path"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Remote is an image in another registry.
type Remote struct {
	ref     name.Reference
	options []remote.Option
}

// OpenRemote names an image in another registry: REGISTRY/REPOSITORY:TAG. Of one
// for several platforms it takes platform, or all when that is nil. The logins
// are those of podman login and docker login; they are read here. What follows
// needs no more rights.
func OpenRemote(ctx context.Context, ref string, platform *v1.Platform) (*Remote, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("%.200q is neither a file nor the name of an image: %w", ref, err)
	}
	login, err := authn.DefaultKeychain.Resolve(r.Context())
	if err != nil {
		return nil, fmt.Errorf("reading the logins of registries: %w", err)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuth(login)}
	if platform != nil {
		options = append(options, remote.WithPlatform(*platform))
	}
	return &Remote{r, options}, nil
}

func (r *Remote) base() string { return path.Base(r.ref.Context().RepositoryStr()) }

func (r *Remote) fill(dir string) ([]v1.Descriptor, error) {
	got, err := remote.Get(r.ref, r.options...)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r.ref, err)
	}
	called := r.ref.Context().RepositoryStr() + ":" + tagOf(r.ref)
	if !got.MediaType.IsIndex() || len(r.options) > 2 {
		image, err := got.Image()
		if err != nil {
			return nil, fmt.Errorf("fetching %s: %w", r.ref, err)
		}
		if err := r.fits(dir, image); err != nil {
			return nil, err
		}
		return appendImage(dir, image, called)
	}
	index, err := got.ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r.ref, err)
	}
	children, err := partial.FindImages(index, func(v1.Descriptor) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r.ref, err)
	}
	if err := r.fits(dir, children...); err != nil {
		return nil, err
	}
	if err := layout.Path(dir).WriteIndex(index); err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r.ref, err)
	}
	d := got.Descriptor
	d.Annotations = map[string]string{annotationName: called}
	return []v1.Descriptor{d}, nil
}

// fits returns an error when the images, as large as they claim to be, would
// fill the disk. Nobody sends more than it claimed.
func (r *Remote) fits(dir string, images ...v1.Image) error {
	var bytes int64
	for _, image := range images {
		m, err := image.Manifest()
		if err != nil {
			return fmt.Errorf("fetching %s: %w", r.ref, err)
		}
		for _, d := range append(m.Layers, m.Config) {
			if d.Size < 0 || d.Size > maxBytes {
				return fmt.Errorf("fetching %s: %w: it says that it has %d bytes", r.ref, ErrArchive, d.Size)
			}
			bytes += d.Size
		}
		if bytes > maxBytes {
			break
		}
	}
	return fits(dir, bytes)
}

func tagOf(r name.Reference) string {
	if tag, ok := r.(name.Tag); ok {
		return tag.TagStr()
	}
	return name.DefaultTag
}
