package release

import "net/http"

// OpenMirrorThrough is OpenMirror with another transport.
func OpenMirrorThrough(m Mirror, transport http.RoundTripper) *Source {
	return &Source{mirror: &mirror{Mirror: m, client: &http.Client{Transport: transport}}}
}
