package mirror

import (
	"context"
	"fmt"
	"slices"
)

// maxRegistries bounds the registries that podman is told of. fleet-helper takes no more.
const maxRegistries = 64

// tell lets podman ask the mirror for images of a registry. Each time that podman is told
// something new it begins anew, so that it is told of all registries at once that are wanted.
func (m *Mirror) tell(ctx context.Context, registry string) error {
	if err := m.telling.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("waiting to tell podman of a registry: %w", err)
	}
	defer m.telling.Release(1)
	if slices.Contains(m.registries, registry) {
		return nil
	}
	registries, err := withRegistry(m.registries, registry, m.wanted())
	if err != nil {
		return err
	}
	changed, err := m.Podman.Mirror(ctx, m.Address(), registries)
	if err != nil {
		return err
	}
	m.registries = registries
	if !changed {
		return nil
	}
	return sleep(ctx, settle)
}

// wanted are the registries of the images that Deployments want, in order.
func (m *Mirror) wanted() (registries []string) {
	if m.Wanted == nil {
		return nil
	}
	for _, image := range m.Wanted() {
		if n, err := parseName(image); err == nil && !IsHere(n.registry) {
			registries = append(registries, n.registry)
		}
	}
	slices.Sort(registries)
	return slices.Compact(registries)
}

// withRegistry adds a registry, and those that are wanted as far as there is room, to those that
// podman knows. When they are too many, the oldest that nothing wants goes.
func withRegistry(known []string, registry string, wanted []string) ([]string, error) {
	all := slices.Clone(known)
	for _, r := range append([]string{registry}, wanted...) {
		if slices.Contains(all, r) {
			continue
		}
		if len(all) >= maxRegistries {
			oldest := slices.IndexFunc(all, func(k string) bool { return k != registry && !slices.Contains(wanted, k) })
			if oldest < 0 {
				break
			}
			all = slices.Delete(all, oldest, oldest+1)
		}
		all = append(all, r)
	}
	if !slices.Contains(all, registry) {
		return nil, fmt.Errorf("podman asks the agent for images of %d registries at most: let Deployments on this device name fewer", maxRegistries)
	}
	return all, nil
}
