package podman

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/containers/common/libnetwork/types"
	"github.com/containers/podman/v5/pkg/specgen"
)

// namesContainer is never started. It has no label, so that nobody takes it for one of a
// Deployment.
const namesContainer = "fleet-names"

// clearTimeout bounds how long it takes to remove it, also when there is no time left for the rest.
const clearTimeout = 20 * time.Second

// RenewNames implements container.Runtime. Podman's server of names is started when a
// container of a network is prepared; the container itself is not run.
func (c *Client) RenewNames(ctx context.Context, network, image string) error {
	if err := c.ClearNames(ctx); err != nil {
		return err
	}
	g := specgen.NewSpecGenerator(image, false)
	g.Name = namesContainer
	g.ImageVolumeMode = "ignore" // or each time leaves volumes that nothing names
	g.NetNS = specgen.Namespace{NSMode: specgen.Bridge}
	g.Networks = map[string]types.PerNetworkOptions{network: {}}
	create := request{method: http.MethodPost, path: "/containers/create", body: g}
	if err := c.call(ctx, create, nil); err != nil {
		return fmt.Errorf("creating container %s: %w", namesContainer, err)
	}
	err := c.Init(ctx, namesContainer)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
	defer cancel()
	if clearErr := c.ClearNames(end); err == nil {
		err = clearErr
	}
	return err
}

// ClearNames implements container.Runtime. An earlier version's has volumes of its own.
func (c *Client) ClearNames(ctx context.Context) error {
	if err := c.remove(ctx, namesContainer, url.Values{"force": {"true"}, "timeout": {"0"}, "v": {"true"}}); err != nil {
		return fmt.Errorf("clearing container %s: %w", namesContainer, err)
	}
	return nil
}
