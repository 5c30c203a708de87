package agent

import (
	"context"
	"fmt"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/agent/store"
)

// secrets returns the contents of the Secrets that a workload needs, from the
// disk or else from the server.
func (p *pass) secrets(ctx context.Context, w *plan.Workload) (store.Secrets, error) {
	names := w.Secrets()
	if len(names) == 0 {
		return nil, nil
	}
	if contents := p.store.Secrets(p.digest); contents != nil {
		return contents, nil
	}
	contents := store.Secrets{}
	for _, name := range names {
		data, err := p.link.Secret(ctx, p.ref.Namespace, name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNoBody, err)
		}
		contents[name] = data
	}
	if err := p.store.SaveSecrets(p.digest, contents); err != nil {
		return nil, err
	}
	return contents, nil
}

// collectSecrets removes the runtime's secrets that a workload which was
// applied does not use.
func (p *pass) collectSecrets(ctx context.Context, w *plan.Workload) error {
	if p.digest == p.target.appliedSecrets {
		return nil
	}
	used := map[string]bool{}
	for _, s := range w.Services {
		for name := range s.Secrets {
			used[name] = true
		}
	}
	return p.removeSecrets(ctx, used)
}

// removeSecrets removes the runtime's secrets of the Deployment but for some.
func (p *pass) removeSecrets(ctx context.Context, but map[string]bool) error {
	names, err := p.runtime.Secrets(ctx, p.ref)
	if err != nil {
		return err
	}
	for _, name := range names {
		if but[name] {
			continue
		}
		if err := p.runtime.RemoveSecret(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
