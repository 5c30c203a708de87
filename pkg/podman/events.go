package podman

import (
	"context"
	"errors"
	"fmt"

	"github.com/containers/podman/v5/pkg/bindings/system"
	"github.com/containers/podman/v5/pkg/domain/entities/types"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// errStreamEnded: podman closed the stream of events.
var errStreamEnded = errors.New("the stream of events ended")

// Watch implements container.Runtime.
func (c *Client) Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := c.bind(ctx)
	if err != nil {
		return err
	}
	events := make(chan types.Event)
	// Podman matches the label of an event with a value, not by its presence, so
	// the label is looked for below.
	options := new(system.EventsOptions).WithStream(true).WithFilters(map[string][]string{"type": {"container"}})
	if err := system.Events(conn, events, nil, options); err != nil {
		return fmt.Errorf("watching containers: %w", c.translate(err, nil))
	}
	ready()
	// The bindings close the channel when the stream breaks or ctx ends.
	for e := range events {
		if ref, ok := container.ParseLabelValue(e.Actor.Attributes[container.LabelDeployment]); ok {
			changed(ref)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("watching containers: %w", errStreamEnded)
}
