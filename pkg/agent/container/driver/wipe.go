package driver

import (
	"context"
	"fmt"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Wipe removes containers before the secrets and volumes that they use.
func (d *Driver) Wipe(ctx context.Context) error {
	containers, err := d.runtime.List(ctx, wire.DeploymentRef{})
	if err != nil {
		return fmt.Errorf("listing containers: %w", err)
	}
	for _, c := range containers {
		if err := d.remove(ctx, c); err != nil {
			return err
		}
	}
	secrets, err := d.runtime.Secrets(ctx, wire.DeploymentRef{})
	if err != nil {
		return err
	}
	for _, name := range secrets {
		d.log.Info("removing secret", "secret", name)
		if err := d.runtime.RemoveSecret(ctx, name); err != nil {
			return err
		}
	}
	networks, err := d.runtime.Networks(ctx, wire.DeploymentRef{})
	if err != nil {
		return err
	}
	for _, name := range networks {
		d.log.Info("removing network", "network", name)
		if err := d.runtime.RemoveNetwork(ctx, name); err != nil {
			return err
		}
	}
	volumes, err := d.runtime.Volumes(ctx, wire.DeploymentRef{})
	if err != nil {
		return err
	}
	for _, v := range volumes {
		d.log.Info("removing volume", "volume", v)
		if err := d.runtime.RemoveVolume(ctx, v); err != nil {
			return err
		}
	}
	return nil
}
