package podman

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// EnsureSecret implements container.Runtime. The name changes with the content, so a secret
// that exists and can be read has the right one. Podman keeps names and contents in two files,
// of which a power cut may leave one as it was: a secret without its content podman lists, and
// neither gives nor removes, so that it is replaced. Podman 4.3 does not look for the content,
// and replaces nothing; the helper removes such a secret (pkg/helper/storage).
func (c *Client) EnsureSecret(ctx context.Context, name string, content []byte) error {
	look := request{
		method: http.MethodGet, path: "/secrets/%s/json", values: []string{name}, query: url.Values{"showsecret": {"true"}}, limit: maxInspection,
	}
	err := c.call(ctx, look, nil)
	if err == nil {
		return nil
	}
	if _, refused := errors.AsType[*refusal](err); !refused && !errors.Is(err, container.ErrNotFound) {
		return fmt.Errorf("looking for secret %s: %w", name, err)
	}
	create := request{method: http.MethodPost, path: "/secrets/create", query: url.Values{"name": {name}, "replace": {"true"}}, raw: content}
	if err := c.call(ctx, create, nil); err != nil {
		return fmt.Errorf("creating secret %s: %w", name, err)
	}
	return nil
}

// Secrets implements container.Runtime. Secrets have no labels in podman 4.3,
// so their names tell whose they are.
func (c *Client) Secrets(ctx context.Context, ref wire.DeploymentRef) ([]string, error) {
	var found list[struct{ Spec struct{ Name string } }]
	if err := c.call(ctx, request{method: http.MethodGet, path: "/secrets/json", limit: maxList}, &found); err != nil {
		return nil, fmt.Errorf("listing secrets: %w", err)
	}
	names := make([]string, 0, len(found))
	for _, s := range found {
		if isSecretOf(s.Spec.Name, ref) {
			names = append(names, s.Spec.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// isSecretOf reports whether a secret belongs to a Deployment, or to any when
// ref is zero.
func isSecretOf(name string, ref wire.DeploymentRef) bool {
	i := strings.LastIndex(name, "_")
	if i < 0 {
		return false
	}
	owner, ok := container.ParseLabelValue(name[:i])
	return ok && (ref == wire.DeploymentRef{} || owner == ref)
}

// RemoveSecret implements container.Runtime.
func (c *Client) RemoveSecret(ctx context.Context, name string) error {
	err := c.call(ctx, request{method: http.MethodDelete, path: "/secrets/%s", values: []string{name}}, nil)
	if err != nil && !errors.Is(err, container.ErrNotFound) {
		return fmt.Errorf("removing secret %s: %w", name, err)
	}
	return nil
}
