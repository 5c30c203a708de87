package agent

import (
	"context"
	"fmt"

	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// secrets returns the contents of the Secrets and ConfigMaps that the workload needs.
func (p *pass) secrets(ctx context.Context) (c workload.Contents, err error) {
	c.Digest = p.digest
	names := p.workload.Secrets()
	if len(names) == 0 {
		return c, nil
	}
	if c.Objects, err = p.objects(ctx, names); err == nil {
		c.Mark, err = p.store.Marks()
	}
	return c, err
}

// objects returns contents from the disk or else from the server.
func (p *pass) objects(ctx context.Context, names []string) (store.Secrets, error) {
	if contents := p.store.Secrets(p.digest); contents != nil {
		return contents, nil
	}
	contents := store.Secrets{}
	for _, name := range names {
		data, digest, err := p.link.Secret(ctx, p.ref, name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNoBody, err)
		}
		// The server may be ahead of the manifest: what it answers must not be kept under
		// the name of what it had before.
		if digest != "" && digest != p.digest {
			return nil, fmt.Errorf("%w: the %s changes at this moment", errNoBody, wire.DescribeObject(name))
		}
		contents[name] = data
	}
	if err := p.store.SaveSecrets(p.digest, contents); err != nil {
		return nil, err
	}
	return contents, nil
}
