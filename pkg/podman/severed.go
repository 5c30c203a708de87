package podman

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/containers/podman/v5/libpod/define"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// severed marks containers that run in a pod whose network has ended with the process that
// kept it. No event of the containers tells. Without pods it asks nobody.
func (c *Client) severed(ctx context.Context, containers []container.Container) ([]container.Container, error) {
	connected := func(o container.Container) bool {
		return o.State == container.StateRunning && container.IsShared(o.Network)
	}
	if !slices.ContainsFunc(containers, connected) {
		return containers, nil
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var pods list[pod]
	query := filters(map[string][]string{"label": {container.LabelNetwork}})
	if err := c.call(ctx, request{method: http.MethodGet, path: "/pods/json", query: query, limit: maxList}, &pods); err != nil {
		return nil, fmt.Errorf("listing networks: %w", err)
	}
	for i := range containers {
		o := &containers[i]
		o.Severed = connected(*o) && slices.ContainsFunc(pods, func(p pod) bool { return p.severs(o.ID) })
	}
	return containers, nil
}

// pod is what podman says of a pod and its containers.
type pod struct {
	// InfraID is the id of the container that keeps the network.
	InfraID    id `json:"InfraId"`
	Containers list[struct {
		ID     id `json:"Id"`
		Status string
	}]
}

// severs reports whether a container of the pod runs, and the one that keeps the network has
// ended. Both are of one answer: what is just being stopped is not severed.
func (p *pod) severs(container string) bool {
	is := func(one id, status define.ContainerStatus) bool {
		for _, c := range p.Containers {
			if c.ID == one && c.Status == status.String() {
				return true
			}
		}
		return false
	}
	return is(id(container), define.ContainerStateRunning) && (is(p.InfraID, define.ContainerStateExited) || is(p.InfraID, define.ContainerStateStopped))
}
