package podman_test

import (
	"errors"
	"net/http"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// TestContainersThatStartNoMore: the words are those of podman 6.1.1 for a container that 4.3
// made, and of 4.3.1 for one in the midst of whose start it was killed.
func TestContainersThatStartNoMore(t *testing.T) {
	for _, words := range []string{
		`unable to start container \"bb7e\": slirp4netns support has been removed, run 'podman system migrate' to update this container to use pasta`,
		`unable to start container \"24b8\": crun: container '24b8' already exists: OCI runtime error`,
	} {
		c := impostor(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"message":"` + words + `","response":500}`))
		})
		if err := c.Start(t.Context(), "bb7e"); !errors.Is(err, container.ErrOutdated) {
			t.Errorf("got %v", err)
		}
	}
}
