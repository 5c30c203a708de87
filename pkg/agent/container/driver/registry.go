package driver

import (
	"context"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// login returns what the fleet's own registry wants to see before it gives an
// image away, or nil for an image of another. Credentials last for about one
// pull, so each gets its own. An error does not rule out that the image can be
// had: the server may only be away.
func (d *Driver) login(ctx context.Context, image string) (*container.Login, error) {
	registry := registryOf(image)
	if registry == "" {
		return nil, nil
	}
	reply, err := d.registry.Registry(ctx)
	if err != nil || !slices.Contains(reply.Registries, registry) {
		return nil, err
	}
	if d.trust != nil {
		if err := d.trust(registry); err != nil {
			return nil, err
		}
	}
	return &container.Login{Registry: registry, User: reply.User, Password: reply.Password}, nil
}

// registryOf returns HOST:PORT of an image, and nothing for one whose registry
// has no port: that is never the fleet's, and need not be asked about.
func registryOf(image string) string {
	registry, _, found := strings.Cut(image, "/")
	if !found || !strings.Contains(registry, ":") {
		return ""
	}
	return registry
}
