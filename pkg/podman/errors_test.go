package podman_test

import (
	"errors"
	"net/http"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// TestAContainerOfAnEarlierPodman: the words are those of podman 6.1.1 for a container that 4.3 made.
func TestAContainerOfAnEarlierPodman(t *testing.T) {
	c := impostor(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(`{"cause":"slirp4netns support has been removed","message":"unable to start container \"bb7e\": slirp4netns support has been removed, run ` +
			"`podman system migrate`" + ` to update this container to use pasta","response":500}`))
	})
	if err := c.Start(t.Context(), "bb7e"); !errors.Is(err, container.ErrOutdated) {
		t.Errorf("got %v", err)
	}
}
