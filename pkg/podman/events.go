package podman

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// errStreamEnded: podman closed the stream of events.
var errStreamEnded = errors.New("the stream of events ended")

// maxEvents is how many events are read in a second. More wait in podman, so that
// they do not keep the device busy.
const maxEvents = 100

// watchEvents is Watch by podman's events.
func (c *Client) watchEvents(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error {
	// Podman matches the label of an event with a value, not by its presence, so
	// the label is looked for below.
	query := filters(map[string][]string{"type": {"container"}})
	query.Set("stream", "true")
	response, done, err := c.begin(ctx, request{method: http.MethodGet, path: "/events", query: query}, c.look)
	if err != nil {
		return fmt.Errorf("watching containers: %w", err)
	}
	defer done()
	ready()
	events := newStream(response.Body)
	pace := rate.NewLimiter(maxEvents, maxEvents)
	for {
		var event struct {
			Actor struct{ Attributes labels }
		}
		if events.next(&event) != nil || pace.Wait(ctx) != nil {
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
