package registry

import (
	"net/http"

	"cuelabs.dev/go/oci/ociregistry"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
)

// Path is below which a Handler serves.
const Path = "/v2/"

// NewHandler returns a handler that serves the images of a store to devices
// with credentials. It changes nothing. What bound returns serves those; others
// never get there.
func NewHandler(s *Store, credentials *Issuer, bound func(http.Handler) http.Handler) http.Handler {
	images := bound(ociserver.New(s.backend(), &ociserver.Options{DisableReferrersAPI: true}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if !credentials.Check(user, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="fleet"`)
			ociregistry.WriteError(w, ociregistry.ErrUnauthorized)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this registry is read-only: push with fleet-server image push on the gateway", http.StatusMethodNotAllowed)
			return
		}
		images.ServeHTTP(w, r)
	})
}
