package podman

import (
	"context"
	"fmt"

	"github.com/containers/podman/v5/pkg/bindings/images"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// ImageExists implements container.Runtime.
func (c *Client) ImageExists(ctx context.Context, image string) (bool, error) {
	ctx, err := c.bind(ctx)
	if err != nil {
		return false, err
	}
	exists, err := images.Exists(ctx, image, nil)
	if err != nil {
		return false, fmt.Errorf("looking for image %q: %w", image, c.translate(err, nil))
	}
	return exists, nil
}

// Pull implements container.Runtime.
func (c *Client) Pull(ctx context.Context, image string) error {
	ctx, err := c.bind(ctx)
	if err != nil {
		return err
	}
	// Without a path the bindings look in directories that belong to others, and
	// fail when they may not.
	_, err = images.Pull(ctx, image, new(images.PullOptions).WithQuiet(true).WithAuthfile(c.authFile))
	if ctx.Err() != nil {
		err = ctx.Err() // the bindings return nil when they are cancelled
	} else {
		err = c.translate(err, container.ErrImage)
	}
	if err != nil {
		return fmt.Errorf("pulling image %q: %w", image, err)
	}
	return nil
}
