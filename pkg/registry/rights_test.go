package registry_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"fleet.nationtech.io/fleet/pkg/registry"
)

func layerOf(t testing.TB, i v1.Image) string {
	t.Helper()
	layers, err := i.Layers()
	must(t, err)
	return digest(t, layers[0])
}

// status is that of the answer to a device that asks for a path.
func (s *site) status(path string) int {
	s.t.Helper()
	return s.request(http.MethodGet, "/v2/"+path).StatusCode
}

// A device that knows the names and digests of images of others still gets only its own.
func TestADeviceGetsOnlyWhatItsManifestNames(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	secret := image(t)
	_, err := push(s.store, ociArchive(t, "team/secret:1", secret, nil), registry.Name{})
	must(t, err)
	configuration, err := secret.ConfigName()
	must(t, err)
	attempts := []string{
		"team/secret/manifests/1", "team/secret/manifests/" + digest(t, secret), "team/secret/blobs/" + layerOf(t, secret), "team/secret/blobs/" + configuration.String(),
		// by the way of a repository of its own
		"team/app/manifests/" + digest(t, secret), "team/app/blobs/" + layerOf(t, secret), "team/app/blobs/" + digest(t, secret),
		"team/app/manifests/sha256-" + strings.TrimPrefix(digest(t, secret), "sha256:") + ".sig",
		"team/absent/manifests/1", "team/app/manifests/latest",
	}
	refused := func(why string) {
		t.Helper()
		for _, path := range attempts {
			if got := s.status(path); got != http.StatusForbidden {
				t.Errorf("%s: %s is answered with %d", why, path, got)
			}
		}
	}
	refused("another image is named")
	s.rights.set("press-2", "gateway:8443/team/secret:1")
	refused("another device's manifest names it")
	s.rights.set("press-1", "gateway:8443/team/app:1", "quay.io/team/secret:1", "other:8443/team/secret:1")
	refused("an image of that name of another registry is named")

	s.rights.set("press-1", "gateway:8443/team/secret:1")
	for _, path := range attempts[:4] {
		if got := s.status(path); got != http.StatusOK {
			t.Errorf("with the right to it, %s is answered with %d", path, got)
		}
	}
	if got := s.status("team/app/manifests/1"); got != http.StatusForbidden {
		t.Errorf("what the manifest does not name any more is answered with %d", got)
	}
}

func TestRightsThatAreNotKnown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.rights.mu.Lock()
	s.rights.names = nil
	s.rights.mu.Unlock()
	if got := s.status("team/app/manifests/1"); got != http.StatusServiceUnavailable {
		t.Errorf("while the server starts, the answer is %d", got)
	}
}

func TestAnIndexGivesRightsToItsImages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	index, err := random.Index(1000, 2, 2)
	must(t, err)
	_, err = push(s.store, ociArchive(t, "many:1", index, nil), registry.Name{})
	must(t, err)
	s.rights.set("press-1", "gateway:8443/many@"+digest(t, index))
	manifest, err := index.IndexManifest()
	must(t, err)
	for _, d := range manifest.Manifests {
		i, err := index.Image(d.Digest)
		must(t, err)
		for _, path := range []string{"many/manifests/" + d.Digest.String(), "many/blobs/" + layerOf(t, i)} {
			if got := s.status(path); got != http.StatusOK {
				t.Errorf("%s is answered with %d", path, got)
			}
		}
	}
	if got := s.status("many/manifests/1"); got != http.StatusForbidden {
		t.Errorf("the tag of an image that is named by digest is answered with %d", got)
	}
}

// A pull that began goes on when its tag is given to another image.
func TestATagThatMovesDuringAPull(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.rights.set("press-1", "gateway:8443/team/app:1")
	if got := s.status("team/app/manifests/1"); got != http.StatusOK {
		t.Fatalf("the tag is answered with %d", got)
	}
	next := image(t)
	_, err := push(s.store, ociArchive(t, "team/app:1", next, nil), registry.Name{})
	must(t, err)
	for _, i := range []v1.Image{s.image, next} {
		if got := s.status("team/app/blobs/" + layerOf(t, i)); got != http.StatusOK {
			t.Errorf("a layer is answered with %d", got)
		}
	}
	must(t, s.store.Remove(registry.Name{Repository: "team/app", Tag: "1"}))
	if _, err := s.store.GC(); err != nil && !errors.Is(err, registry.ErrNotFound) {
		t.Error(err)
	}
	if got := s.status("team/app/blobs/" + layerOf(t, next)); got != http.StatusNotFound {
		t.Errorf("a layer of a removed image is answered with %d", got)
	}
}
