package podman

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containers/podman/v5/libpod/define"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// stopTimeout is the time in seconds that a container has to end before it is
// killed; it is podman's own default.
const stopTimeout = "10"

// List implements container.Runtime. Each container is inspected, since
// podman 4.3 lists neither the restart count nor exact times.
func (c *Client) List(ctx context.Context, ref wire.DeploymentRef) ([]container.Container, error) {
	query := filters(labelFilter(ref))
	query.Set("all", "true")
	var found []struct {
		ID string `json:"Id"`
	}
	if err := c.call(ctx, request{method: http.MethodGet, path: "/containers/json", query: query}, &found); err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	list := make([]container.Container, 0, len(found))
	for _, f := range found {
		var data define.InspectContainerData
		err := c.call(ctx, request{method: http.MethodGet, path: "/containers/%s/json", values: []string{f.ID}}, &data)
		if errors.Is(err, container.ErrNotFound) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, fmt.Errorf("inspecting container %.12s: %w", f.ID, err)
		}
		if observed, ok := convert(&data); ok {
			list = append(list, observed)
		}
	}
	slices.SortFunc(list, func(a, b container.Container) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// labelFilter selects the labelled containers or volumes of one Deployment, or
// all of them when ref is zero.
func labelFilter(ref wire.DeploymentRef) map[string][]string {
	label := container.LabelDeployment
	if ref != (wire.DeploymentRef{}) {
		label += "=" + container.LabelValue(ref)
	}
	return map[string][]string{"label": {label}}
}

// convert reports false for a container whose labels the agent did not write.
func convert(data *define.InspectContainerData) (container.Container, bool) {
	if data.Config == nil || data.State == nil {
		return container.Container{}, false
	}
	ref, ok := container.ParseLabelValue(data.Config.Labels[container.LabelDeployment])
	return container.Container{
		ID:          data.ID,
		Name:        data.Name,
		Ref:         ref,
		Service:     data.Config.Labels[container.LabelService],
		Hash:        data.Config.Labels[container.LabelHash],
		Image:       data.ImageName,
		Mounts:      bindMounts(data.Mounts),
		State:       container.State(data.State.Status),
		ExitCode:    int(data.State.ExitCode),
		OutOfMemory: data.State.OOMKilled,
		Restarts:    int(data.RestartCount),
		Created:     data.Created.UTC(),
		Started:     data.State.StartedAt.UTC(),
		Finished:    data.State.FinishedAt.UTC(),
	}, ok
}

func bindMounts(mounts []define.InspectMount) []container.Mount {
	var binds []container.Mount
	for _, m := range mounts {
		if m.Type == define.TypeBind {
			binds = append(binds, container.Mount{HostPath: m.Source, Path: m.Destination, ReadOnly: !m.RW})
		}
	}
	return binds
}

// Create implements container.Runtime.
func (c *Client) Create(ctx context.Context, spec *container.Spec) (string, error) {
	var reply struct {
		ID string `json:"Id"`
	}
	if err := c.call(ctx, request{method: http.MethodPost, path: "/containers/create", body: generate(spec)}, &reply); err != nil {
		return "", fmt.Errorf("creating container %s: %w", spec.Name(), err)
	}
	return reply.ID, nil
}

// Start implements container.Runtime.
func (c *Client) Start(ctx context.Context, id string) error {
	if err := c.call(ctx, request{method: http.MethodPost, path: "/containers/%s/start", values: []string{id}}, nil); err != nil {
		return fmt.Errorf("starting container %.12s: %w", id, err)
	}
	return nil
}

// Stop implements container.Runtime.
func (c *Client) Stop(ctx context.Context, id string) error {
	query := url.Values{"timeout": {stopTimeout}}
	err := c.call(ctx, request{method: http.MethodPost, path: "/containers/%s/stop", values: []string{id}, query: query}, nil)
	if err != nil && !errors.Is(err, container.ErrNotFound) && !notStarted(err) {
		return fmt.Errorf("stopping container %.12s: %w", id, err)
	}
	return nil
}

// notStarted reports whether podman refused to stop a container because it
// never ran. The type of the error does not cross the socket.
func notStarted(err error) bool {
	return strings.Contains(err.Error(), define.ErrCtrStateInvalid.Error())
}

// Remove implements container.Runtime. Anonymous volumes go with the
// container; nothing could name them any more.
func (c *Client) Remove(ctx context.Context, id string) error {
	query := url.Values{"volumes": {"true"}, "ignore": {"true"}}
	var reports []struct{ Err any }
	err := c.call(ctx, request{method: http.MethodDelete, path: "/containers/%s", values: []string{id}, query: query}, &reports)
	for _, r := range reports {
		if err == nil && r.Err != nil {
			err = fmt.Errorf("%v", r.Err)
		}
	}
	if err != nil && !errors.Is(err, container.ErrNotFound) {
		return fmt.Errorf("removing container %.12s: %w", id, err)
	}
	return nil
}
