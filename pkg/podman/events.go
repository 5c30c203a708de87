package podman

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// errStreamEnded: podman closed the stream of events.
var errStreamEnded = errors.New("the stream of events ended")

// maxEvents is how many events are read in a second. More wait in podman, so that
// they do not keep the device busy.
const maxEvents = 100

// Watch implements container.Runtime.
func (c *Client) Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error {
	// Podman matches the label of an event with a value, not by its presence, so
	// the label is looked for below.
	query := filters(map[string][]string{"type": {"container"}})
	query.Set("stream", "true")
	// The answer goes on for as long as ctx does, and must begin soon.
	begun, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(c.look, cancel)
	response, err := c.send(begun, request{method: http.MethodGet, path: "/events", query: query})
	if !late.Stop() {
		err = cmp.Or(ctx.Err(), unavailable(c.find(), errSilent))
	}
	if err != nil {
		return fmt.Errorf("watching containers: %w", err)
	}
	defer response.Body.Close()
	if !response.IsSuccess() {
		return fmt.Errorf("watching containers: %w", c.translate(decode(response.Response, 0, nil), nil))
	}
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
