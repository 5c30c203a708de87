package registry

import (
	"net/http"

	"cuelabs.dev/go/oci/ociregistry"
	"cuelabs.dev/go/oci/ociregistry/ociserver"

	"fleet.nationtech.io/fleet/pkg/registry/cache"
)

// Path is below which a Handler serves.
const Path = "/v2/"

// Site is what a registry consists of.
type Site struct {
	// Store has the images that were pushed.
	Store *Store
	// Cache has those of other registries; nil for none.
	Cache       *cache.Cache
	Credentials *Issuer
	Rights      Rights
	// Names are those of the registry, HOST:PORT.
	Names func() []string
}

// NewHandler returns a handler that serves the images of a site to devices with
// credentials, to each those that its manifest names. What bound returns serves those;
// others never get there.
func NewHandler(s Site, bound func(http.Handler) http.Handler) http.Handler {
	b := &backend{s, newRecent(s.Credentials.now)}
	images := bound(ociserver.New(b.questions(), &ociserver.Options{DisableReferrersAPI: true}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if !s.Credentials.Check(user, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="fleet"`)
			ociregistry.WriteError(w, ociregistry.ErrUnauthorized)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this registry is read-only: push with fleet-server image push on the gateway", http.StatusMethodNotAllowed)
			return
		}
		images.ServeHTTP(w, r.WithContext(withDevice(r.Context(), user)))
	})
}
