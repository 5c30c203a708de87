package podman

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// ImageExists implements container.Runtime.
func (c *Client) ImageExists(ctx context.Context, image string) (bool, error) {
	err := c.call(ctx, request{method: http.MethodGet, path: "/images/%s/exists", values: []string{image}}, nil)
	if errors.Is(err, container.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for image %q: %w", image, err)
	}
	return true, nil
}

// Image implements container.Runtime.
func (c *Client) Image(ctx context.Context, image string) (container.Image, error) {
	var found struct {
		Architecture, Os, User string
		Config                 struct{ Volumes map[string]struct{} }
		HealthCheck            *healthCheck `json:"Healthcheck"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: "/images/%s/json", values: []string{image}}, &found)
	if err != nil {
		return container.Image{}, fmt.Errorf("looking at image %q: %w", image, err)
	}
	return container.Image{
		Volumes: slices.Sorted(maps.Keys(found.Config.Volumes)), HealthCheck: found.HealthCheck.probe(),
		User: clip(found.User, maxShort), Arch: clip(found.Architecture, maxShort), OS: clip(found.Os, maxShort),
	}, nil
}

// Pull implements container.Runtime.
func (c *Client) Pull(ctx context.Context, image string, login *container.Login) error {
	header, err := registryConfig(c.authFile, login)
	if err != nil {
		return fmt.Errorf("pulling image %q: %w", image, err)
	}
	response, err := c.send(ctx, request{
		method: http.MethodPost, path: "/images/pull", header: header,
		query: url.Values{"reference": {image}, "quiet": {"true"}},
	})
	if err == nil {
		defer response.Body.Close()
		if response.IsSuccess() {
			err = pullResult(io.LimitReader(response.Body, maxStream))
		} else {
			err = decode(response.Response, 0, nil)
		}
		err = c.translate(err, container.ErrImage)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("pulling image %q: %w", image, err)
	}
	return nil
}

// pullResult reads podman's stream of reports: an error is one of them, under
// status 200.
func pullResult(r io.Reader) error {
	reports := newStream(r)
	var failure error
	for {
		var report struct {
			Error string `json:"error"`
		}
		switch err := reports.next(&report); {
		case errors.Is(err, io.EOF):
			return failure
		case err != nil:
			return err
		case report.Error != "":
			failure = errors.New(clip(report.Error, maxRefusal))
		}
	}
}
