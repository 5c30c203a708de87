package agent

import (
	"context"
	"fmt"

	"fleet.nationtech.io/fleet/pkg/agent/store"
)

// secrets returns the contents of the Secrets that the workload needs, from the
// disk or else from the server.
func (p *pass) secrets(ctx context.Context) (store.Secrets, error) {
	names := p.workload.Secrets()
	if len(names) == 0 {
		return nil, nil
	}
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
			return nil, fmt.Errorf("%w: the Secret %s changes at this moment", errNoBody, name)
		}
		contents[name] = data
	}
	if err := p.store.SaveSecrets(p.digest, contents); err != nil {
		return nil, err
	}
	return contents, nil
}
