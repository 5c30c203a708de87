package podman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// errStreamEnded: podman closed the stream of events.
var errStreamEnded = errors.New("the stream of events ended")

// Watch implements container.Runtime.
func (c *Client) Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error {
	// Podman matches the label of an event with a value, not by its presence, so
	// the label is looked for below.
	query := filters(map[string][]string{"type": {"container"}})
	query.Set("stream", "true")
	response, err := c.send(ctx, request{method: http.MethodGet, path: "/events", query: query})
	if err != nil {
		return fmt.Errorf("watching containers: %w", err)
	}
	defer response.Body.Close()
	if !response.IsSuccess() {
		return fmt.Errorf("watching containers: %w", c.translate(response.Process(nil), nil))
	}
	ready()
	dec := json.NewDecoder(response.Body)
	for {
		var event struct {
			Actor struct{ Attributes map[string]string }
		}
		if dec.Decode(&event) != nil {
			break // the stream broke, or ctx ended
		}
		if ref, ok := container.ParseLabelValue(event.Actor.Attributes[container.LabelDeployment]); ok {
			changed(ref)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("watching containers: %w", errStreamEnded)
}
