package podman

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// EnsureVolume implements container.Runtime. A volume of the name that belongs
// to nobody or to another Deployment is an error.
func (c *Client) EnsureVolume(ctx context.Context, ref wire.DeploymentRef, name, adopts string, size int64) (string, error) {
	owner := container.LabelValue(ref)
	found, bounded, there, err := c.volume(ctx, name)
	switch {
	case err != nil:
		return "", err
	case there && found[container.LabelDeployment] != owner:
		return "", fmt.Errorf("volume %s exists and does not belong to %s: remove or rename it", name, ref)
	case there && size > 0 && !bounded:
		return "", fmt.Errorf("volume %s exists: %w any more", name, container.ErrNoLimit)
	case there:
		return c.standsFor(ctx, name, found)
	}
	create := struct {
		Name  string
		Label map[string]string
		// Options are those of podman's own driver.
		Options map[string]string `json:",omitempty"`
	}{Name: name, Label: map[string]string{container.LabelDeployment: owner}}
	if size > 0 {
		create.Options = map[string]string{"o": "size=" + strconv.FormatInt(size, 10)}
	}
	if adopts != "" {
		create.Label[container.LabelAdopts] = adopts
		if err := c.readopt(ctx, adopts); err != nil {
			return "", err
		}
	}
	if err := c.call(ctx, request{method: http.MethodPost, path: "/volumes/create", body: create}, nil); err != nil {
		if size > 0 && !errors.Is(err, container.ErrUnavailable) {
			err = fmt.Errorf("%w here (%s)", container.ErrNoLimit, err.Error())
		}
		return "", fmt.Errorf("creating volume %s: %w", name, err)
	}
	return c.standsFor(ctx, name, create.Label)
}

// readopt makes podman know a volume without a name again that it forgot together with its
// database. It takes the directory as it finds it.
func (c *Client) readopt(ctx context.Context, name string) error {
	if _, _, there, err := c.volume(ctx, name); err != nil || there || !container.Anonymous(name) {
		return err
	}
	create := struct{ Name string }{name}
	if err := c.call(ctx, request{method: http.MethodPost, path: "/volumes/create", body: create}, nil); err != nil {
		return fmt.Errorf("creating volume %s: %w", name, err)
	}
	return nil
}

// standsFor returns the volume that one with the given labels stands for.
func (c *Client) standsFor(ctx context.Context, name string, l labels) (string, error) {
	adopted, ok := adoptedBy(l)
	if !ok {
		return name, nil
	}
	_, _, there, err := c.volume(ctx, adopted)
	if err != nil || there {
		return adopted, err
	}
	return name, nil // somebody removed it
}

// adoptedBy returns the volume that one with the given labels stands for, if any.
func adoptedBy(l labels) (name string, ok bool) {
	name = l[container.LabelAdopts]
	return name, container.Anonymous(name)
}

// volume returns the labels of a volume, if it is there, and whether it has options, such as
// a size.
func (c *Client) volume(ctx context.Context, name string) (l labels, bounded, there bool, err error) {
	var found struct {
		Labels  labels
		Options struct{ O string }
	}
	err = c.call(ctx, request{method: http.MethodGet, path: "/volumes/%s/json", values: []string{name}}, &found)
	switch {
	case errors.Is(err, container.ErrNotFound):
		return nil, false, false, nil
	case err != nil:
		return nil, false, false, fmt.Errorf("looking for volume %s: %w", name, err)
	}
	return found.Labels, strings.Contains(found.Options.O, "size="), true, nil
}

// Volumes implements container.Runtime.
func (c *Client) Volumes(ctx context.Context, ref wire.DeploymentRef) ([]string, error) {
	var found list[struct {
		Name   string
		Labels labels
	}]
	err := c.call(ctx, request{method: http.MethodGet, path: "/volumes/json", query: filters(labelFilter(ref)), limit: maxList}, &found)
	if err != nil {
		return nil, fmt.Errorf("listing volumes: %w", err)
	}
	names := make([]string, 0, len(found))
	for _, v := range found {
		names = append(names, v.Name)
		if adopted, ok := adoptedBy(v.Labels); ok {
			names = append(names, adopted)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// RemoveVolume implements container.Runtime.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	err := c.call(ctx, request{method: http.MethodDelete, path: "/volumes/%s", values: []string{name}}, nil)
	if err != nil && !errors.Is(err, container.ErrNotFound) {
		return fmt.Errorf("removing volume %s: %w", name, err)
	}
	return nil
}
