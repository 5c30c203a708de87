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
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/printable"
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
		ID                     id `json:"Id"`
		Architecture, Os, User string
		Config                 struct{ Volumes map[string]struct{} }
		HealthCheck            *healthCheck `json:"Healthcheck"`
		Annotations            map[string]string
	}
	err := c.call(ctx, request{method: http.MethodGet, path: "/images/%s/json", values: []string{image}}, &found)
	if err != nil {
		return container.Image{}, fmt.Errorf("looking at image %q: %w", image, err)
	}
	return container.Image{
		ID: string(found.ID), Volumes: slices.Sorted(maps.Keys(found.Config.Volumes)), HealthCheck: found.HealthCheck.probe(),
		User: clip(found.User, maxShort), Arch: printable.Line(clip(found.Architecture, maxShort)), OS: printable.Line(clip(found.Os, maxShort)),
		Annotations: actedUpon(found.Annotations),
	}, nil
}

// runtimeKeys are the beginnings of keys of annotations that crun, runc and podman act upon.
var runtimeKeys = []string{"run.oci.", "org.systemd.", "org.criu.", "io.podman.", "io.containers.", "io.kubernetes.", "module.wasm."}

// actedUpon are the keys of annotations that runtimes act upon, in order.
func actedUpon(annotations map[string]string) (keys []string) {
	for key := range annotations {
		if slices.ContainsFunc(runtimeKeys, func(prefix string) bool { return strings.HasPrefix(strings.ToLower(key), prefix) }) {
			keys = append(keys, printable.Line(clip(key, maxShort)))
		}
	}
	slices.Sort(keys)
	return keys[:min(len(keys), maxNames)]
}

// maxNames bounds the names of one image.
const maxNames = 64

// Images implements container.Runtime.
func (c *Client) Images(ctx context.Context) ([]container.StoredImage, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var found list[struct {
		ID                    id `json:"Id"`
		RepoTags, RepoDigests []string
		Containers            int
	}]
	if err := c.call(ctx, request{method: http.MethodGet, path: "/images/json", limit: maxList}, &found); err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	images := make([]container.StoredImage, 0, len(found))
	for _, f := range found {
		tags, all := names(f.RepoTags)
		digests, _ := names(f.RepoDigests)
		images = append(images, container.StoredImage{ID: string(f.ID), Names: tags, Digests: digests, Used: f.Containers > 0 || !all})
	}
	return images, nil
}

// names are those of an image, and all reports whether none is left out: for its length,
// or since there are too many. What has no name podman calls <none>:<none>.
func names(found []string) (kept []string, all bool) {
	kept = slices.DeleteFunc(found, func(name string) bool { return strings.HasPrefix(name, "<none>") })
	there := len(kept)
	kept = slices.DeleteFunc(kept, func(name string) bool { return len(name) > maxImage })
	kept = kept[:min(len(kept), maxNames)]
	return kept, len(kept) == there
}

// RemoveImage implements container.Runtime.
func (c *Client) RemoveImage(ctx context.Context, nameOrID string) error {
	err := c.call(ctx, request{method: http.MethodDelete, path: "/images/%s", values: []string{nameOrID}}, nil)
	answer, refused := errors.AsType[*refusal](err)
	switch {
	case err == nil || errors.Is(err, container.ErrNotFound):
		return nil
	case refused && answer.status == http.StatusConflict:
		return fmt.Errorf("removing image %q: %w: %s", nameOrID, container.ErrImageInUse, answer.text)
	}
	return fmt.Errorf("removing image %q: %w", nameOrID, err)
}

// Pull implements container.Runtime.
func (c *Client) Pull(ctx context.Context, image string, logins ...container.Login) error {
	header, err := registryConfig(c.authFile, logins)
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

// Load takes the images of an archive, and returns their names. It takes as long as ctx
// lets it.
func (c *Client) Load(ctx context.Context, archive io.Reader) ([]string, error) {
	response, err := c.send(ctx, request{method: http.MethodPost, path: "/images/load", stream: archive, header: http.Header{"Content-Type": {"application/x-tar"}}})
	if err != nil {
		return nil, fmt.Errorf("loading images: %w", err)
	}
	defer response.Body.Close()
	var report struct{ Names []string }
	if err := decode(response.Response, maxAnswer, &report); err != nil {
		return nil, fmt.Errorf("loading images: %w", c.translate(err, container.ErrImage))
	}
	names := report.Names[:min(len(report.Names), maxNames)]
	for i, name := range names {
		names[i] = clip(name, maxImage)
	}
	return names, nil
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
