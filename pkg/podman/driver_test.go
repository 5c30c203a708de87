package podman_test

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/agent/workload/workloadtest"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// The driver of containers keeps its promises with a real podman, too.
func TestDriverConforms(t *testing.T) {
	path := socket(t)
	const image = "localhost/fleet-driver:1"
	importProgram(t, path, image, nil)
	client := podman.New(func() string { return path }, filepath.Join(t.TempDir(), "none.json"))
	t.Cleanup(client.Close)
	workloadtest.Conformance(t, workloadtest.Subject{
		Shared: true,
		New: func() workload.Driver {
			return driver.New(driver.Config{Runtime: client, Log: slog.New(slog.DiscardHandler)})
		},
		Score: func(version int) wire.Score {
			return wire.Score{Type: score.TypePodmanV0, Data: fmt.Appendf(nil,
				`{"services":[{"name":"web","image":%q,"command":["/%s","sleep"],"env":[{"name":"VERSION","value":"%d"}],"volumes":[{"name":"data","mountPath":"/data"}]}]}`,
				image, program, version)}
		},
		Bad: wire.Score{Type: score.TypePodmanV0, Data: []byte(`{"services":[{"name":"web"}]}`)},
		Break: func(t *testing.T, ref wire.DeploymentRef) {
			list, err := client.List(t.Context(), ref)
			for _, c := range list {
				err = errors.Join(err, client.Stop(t.Context(), c.ID, 0), client.Remove(t.Context(), c.ID))
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	})
}
