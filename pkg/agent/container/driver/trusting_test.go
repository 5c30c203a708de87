package driver

import (
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// TestAnnotationsOfImages: podman 4.3 gives a container those of its image.
func TestAnnotationsOfImages(t *testing.T) {
	t.Parallel()
	for version, ok := range map[string]bool{"4.3.1": false, "4.5.2": false, "4.6.0": true, "5.4.2": true, "": false} {
		info := container.Info{Version: version}
		if err := trusting(&container.Image{}, "localhost/a:1", &info); err != nil {
			t.Errorf("podman %q: an image without annotations is refused: %v", version, err)
		}
		err := trusting(&container.Image{Annotations: []string{"run.oci.seccomp_bpf_data"}}, "localhost/a:1", &info)
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "run.oci.seccomp_bpf_data") {
			t.Errorf("podman %q: an image with annotations: %v", version, err)
		}
	}
}
