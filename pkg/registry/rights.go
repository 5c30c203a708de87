package registry

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"cuelabs.dev/go/oci/ociregistry"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Rights tells which images a device may have.
type Rights interface {
	// Images returns the names of the images that a device is told to run, as its manifest
	// has them, and false while nobody can tell.
	Images(device string) (names []string, known bool)
}

// errStarting: nobody can tell yet what devices may have.
var errStarting = ociregistry.NewHTTPError(errors.New("the server is starting: try again"), http.StatusServiceUnavailable, nil, nil)

// denied is the answer to whoever asks for more than it may have, whether that is there or
// not.
func denied(device, repository string) error {
	return ociregistry.NewError("no Deployment of device "+device+" names this image of "+repository, ociregistry.ErrDenied.Code(), nil)
}

// deviceKey is where the context of a request has the name of the device.
type deviceKey struct{}

func withDevice(ctx context.Context, device string) context.Context {
	return context.WithValue(ctx, deviceKey{}, device)
}

func deviceOf(ctx context.Context) string {
	device, _ := ctx.Value(deviceKey{}).(string)
	return device
}

// grant is what a device may ask for in one repository.
type grant struct {
	tags    []string
	digests []v1.Hash
}

// grant returns what a device may ask for in a repository.
func (b *backend) grant(device, repository string) (grant, error) {
	images, known := b.Rights.Images(device)
	if !known {
		return grant{}, errStarting
	}
	ours := map[string]bool{}
	for _, n := range b.Names() {
		ours[n] = true
	}
	var found grant
	for _, image := range images {
		ref, err := name.ParseReference(image)
		if err != nil || !b.means(ref.Context(), repository, ours) {
			continue
		}
		switch ref := ref.(type) {
		case name.Tag:
			found.tags = append(found.tags, ref.TagStr())
		case name.Digest:
			if h, err := v1.NewHash(ref.DigestStr()); err == nil {
				found.digests = append(found.digests, h)
			}
		}
	}
	return found, nil
}

// means reports whether an image of a name is in a repository of this registry.
func (b *backend) means(named name.Repository, repository string, ours map[string]bool) bool {
	registry := named.RegistryStr()
	if ours[registry] {
		return named.RepositoryStr() == repository
	}
	path, cached := b.Cache.Path(registry, named.RepositoryStr())
	return cached && path == repository
}

// signature is the form of the tag under which sigstore keeps what signs an image.
var signature = regexp.MustCompile(`^sha256-([0-9a-f]{64})\.sig$`)

// signedBy is the digest that a tag has the signatures of.
func signedBy(tag string) (v1.Hash, bool) {
	parts := signature.FindStringSubmatch(tag)
	if parts == nil {
		return v1.Hash{}, false
	}
	return v1.Hash{Algorithm: "sha256", Hex: parts[1]}, true
}

// maxRecent bounds the tags that something is remembered of.
const maxRecent = 4096

// recent remembers what tags stood for when devices asked: a tag that is given to another
// image ends no pull that began before.
type recent struct {
	now func() time.Time

	mu   sync.Mutex // guards what follows
	tags map[string]map[v1.Hash]time.Time
}

func newRecent(now func() time.Time) *recent {
	return &recent{now: now, tags: map[string]map[v1.Hash]time.Time{}}
}

func recentKey(repository, tag string) string { return repository + ":" + tag }

func (r *recent) note(repository, tag string, digest v1.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.tags) >= maxRecent {
		clear(r.tags)
	}
	key := recentKey(repository, tag)
	if r.tags[key] == nil {
		r.tags[key] = map[v1.Hash]time.Time{}
	}
	r.tags[key][digest] = r.now()
}

// of returns what a tag stood for lately.
func (r *recent) of(repository, tag string) (digests []v1.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := recentKey(repository, tag)
	for digest, at := range r.tags[key] {
		if r.now().Sub(at) > TTL {
			delete(r.tags[key], digest)
			continue
		}
		digests = append(digests, digest)
	}
	return digests
}

// signatures returns the tags of signatures in a repository that were asked for lately.
func (r *recent) signatures(repository string) (tags []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.tags {
		if tag, of := strings.CutPrefix(key, repository+":"); of && signature.MatchString(tag) {
			tags = append(tags, tag)
		}
	}
	return tags
}
