package podman

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containers/common/libnetwork/types"
	"github.com/containers/podman/v5/pkg/specgen"
)

// namesContainer is never started. It has no label, so that nobody takes it for one of a
// Deployment.
const namesContainer = "fleet-names"

// RenewNames implements container.Runtime. Podman's server of names is started when a
// container of a network is prepared; the container itself is not run.
func (c *Client) RenewNames(ctx context.Context, network, image string) error {
	if err := c.Clear(ctx, namesContainer); err != nil {
		return err
	}
	g := specgen.NewSpecGenerator(image, false)
	g.Name = namesContainer
	g.NetNS = specgen.Namespace{NSMode: specgen.Bridge}
	g.Networks = map[string]types.PerNetworkOptions{network: {}}
	create := request{method: http.MethodPost, path: "/containers/create", body: g}
	if err := c.call(ctx, create, nil); err != nil {
		return fmt.Errorf("creating container %s: %w", namesContainer, err)
	}
	err := c.Init(ctx, namesContainer)
	if clearErr := c.Clear(ctx, namesContainer); err == nil {
		err = clearErr
	}
	return err
}
