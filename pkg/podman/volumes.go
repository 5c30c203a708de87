package podman

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// EnsureVolume implements container.Runtime. A volume of the name that belongs
// to nobody or to another Deployment is an error.
func (c *Client) EnsureVolume(ctx context.Context, ref wire.DeploymentRef, name string) error {
	owner := container.LabelValue(ref)
	var found struct{ Labels labels }
	err := c.call(ctx, request{method: http.MethodGet, path: "/volumes/%s/json", values: []string{name}}, &found)
	switch {
	case err == nil && found.Labels[container.LabelDeployment] == owner:
		return nil
	case err == nil:
		return fmt.Errorf("volume %s exists and does not belong to %s: remove or rename it", name, ref)
	case !errors.Is(err, container.ErrNotFound):
		return fmt.Errorf("looking for volume %s: %w", name, err)
	}
	create := struct {
		Name  string
		Label map[string]string
	}{name, map[string]string{container.LabelDeployment: owner}}
	if err := c.call(ctx, request{method: http.MethodPost, path: "/volumes/create", body: create}, nil); err != nil {
		return fmt.Errorf("creating volume %s: %w", name, err)
	}
	return nil
}

// Volumes implements container.Runtime.
func (c *Client) Volumes(ctx context.Context, ref wire.DeploymentRef) ([]string, error) {
	var found list[struct{ Name string }]
	err := c.call(ctx, request{method: http.MethodGet, path: "/volumes/json", query: filters(labelFilter(ref)), limit: maxList}, &found)
	if err != nil {
		return nil, fmt.Errorf("listing volumes: %w", err)
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
	err := c.call(ctx, request{method: http.MethodDelete, path: "/volumes/%s", values: []string{name}}, nil)
	if err != nil && !errors.Is(err, container.ErrNotFound) {
		return fmt.Errorf("removing volume %s: %w", name, err)
	}
	return nil
}
