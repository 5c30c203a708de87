package podman

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containers/podman/v5/pkg/bindings/volumes"
	"github.com/containers/podman/v5/pkg/domain/entities/types"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// EnsureVolume implements container.Runtime. A volume of the name that belongs
// to nobody or to another Deployment is an error.
func (c *Client) EnsureVolume(ctx context.Context, ref wire.DeploymentRef, name string) error {
	ctx, err := c.bind(ctx)
	if err != nil {
		return err
	}
	labels := map[string]string{container.LabelDeployment: container.LabelValue(ref)}
	found, err := volumes.Inspect(ctx, name, nil)
	switch err = c.translate(err, nil); {
	case err == nil && found.Labels[container.LabelDeployment] == labels[container.LabelDeployment]:
		return nil
	case err == nil:
		return fmt.Errorf("volume %s exists and does not belong to %s: remove or rename it", name, ref)
	case !errors.Is(err, container.ErrNotFound):
		return fmt.Errorf("looking for volume %s: %w", name, err)
	}
	if _, err := volumes.Create(ctx, types.VolumeCreateOptions{Name: name, Label: labels}, nil); err != nil {
		return fmt.Errorf("creating volume %s: %w", name, c.translate(err, nil))
	}
	return nil
}

// Volumes implements container.Runtime.
func (c *Client) Volumes(ctx context.Context, ref wire.DeploymentRef) ([]string, error) {
	ctx, err := c.bind(ctx)
	if err != nil {
		return nil, err
	}
	found, err := volumes.List(ctx, new(volumes.ListOptions).WithFilters(filters(ref)))
	if err != nil {
		return nil, fmt.Errorf("listing volumes: %w", c.translate(err, nil))
	}
	names := make([]string, 0, len(found))
	for _, v := range found {
		names = append(names, v.Name)
	}
	slices.Sort(names)
	return names, nil
}

// RemoveVolume implements container.Runtime.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	ctx, err := c.bind(ctx)
	if err != nil {
		return err
	}
	err = c.translate(volumes.Remove(ctx, name, nil), nil)
	if err != nil && !errors.Is(err, container.ErrNotFound) {
		return fmt.Errorf("removing volume %s: %w", name, err)
	}
	return nil
}
