package driver

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// mounts knows which directories of the device the Deployments mount, and
// allows no mount whose path another Deployment could change. Podman resolves
// the path of a mount again whenever it restarts a container, so that what was
// allowed must stay what it is.
type mounts struct {
	policy bind.Policy

	mu sync.Mutex // guards what follows
	// store is where the runtime keeps images and volumes.
	store string
	// planned are those that were allowed, observed those that containers have,
	// running or not.
	planned, observed map[wire.DeploymentRef][]container.Mount
}

func newMounts(policy bind.Policy) *mounts {
	return &mounts{policy: policy, planned: map[wire.DeploymentRef][]container.Mount{}, observed: map[wire.DeploymentRef][]container.Mount{}}
}

// forbid forbids mounts of where the runtime keeps images and volumes.
func (m *mounts) forbid(store string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store = store
}

func (m *mounts) rules() bind.Policy {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.store == "" {
		return m.policy
	}
	return m.policy.Forbid(m.store)
}

// see notes the containers of all Deployments.
func (m *mounts) see(list []container.Container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.observed)
	for _, c := range list {
		m.observed[c.Ref] = append(m.observed[c.Ref], c.Mounts...)
	}
}

// seeOf notes the containers of one Deployment.
func (m *mounts) seeOf(ref wire.DeploymentRef, list []container.Container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.observed, ref)
	for _, c := range list {
		m.observed[ref] = append(m.observed[ref], c.Mounts...)
	}
}

// claim returns the workload with its host paths resolved, or an error that
// wraps bind.ErrRefused. Of two Deployments that exclude one another the first
// one has its mounts.
func (m *mounts) claim(w *plan.Workload) (*plan.Workload, error) {
	resolved, err := m.rules().Resolve(w) // without the lock: a file system may hang
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.planned, w.Ref)
	if err != nil {
		return nil, err
	}
	for _, s := range resolved.Services {
		if err := m.insideOfOthers(w.Ref, s.Mounts); err != nil {
			return nil, fmt.Errorf("service %s: %w", s.Service, err)
		}
		if err := m.aroundOthers(w.Ref, s.Mounts); err != nil {
			return nil, fmt.Errorf("service %s: %w", s.Service, err)
		}
	}
	for _, s := range resolved.Services {
		m.planned[w.Ref] = append(m.planned[w.Ref], s.Mounts...)
	}
	return resolved, nil
}

func (m *mounts) insideOfOthers(ref wire.DeploymentRef, mine []container.Mount) error {
	for _, other := range m.others(ref) {
		if err := bind.Inside(mine, m.of(other)); err != nil {
			return fmt.Errorf("%w of Deployment %s", err, other)
		}
	}
	return nil
}

// aroundOthers refuses mounts that would let the Deployment change what others
// have. One that has such a mount already keeps it: then the others are refused.
func (m *mounts) aroundOthers(ref wire.DeploymentRef, mine []container.Mount) error {
	var added []container.Mount
	for _, mount := range mine {
		if !hasWritable(m.observed[ref], mount.HostPath) {
			added = append(added, mount)
		}
	}
	for _, other := range m.others(ref) {
		if err := bind.Inside(m.of(other), added); err != nil {
			return fmt.Errorf("%w: Deployment %s has the former already", err, other)
		}
	}
	return nil
}

func hasWritable(list []container.Mount, path string) bool {
	return slices.ContainsFunc(list, func(m container.Mount) bool { return m.HostPath == path && !m.ReadOnly })
}

// others lists the other Deployments, in order so that errors read the same
// each time.
func (m *mounts) others(ref wire.DeploymentRef) []wire.DeploymentRef {
	refs := slices.AppendSeq(slices.Collect(maps.Keys(m.planned)), maps.Keys(m.observed))
	slices.SortFunc(refs, wire.DeploymentRef.Compare)
	return slices.DeleteFunc(slices.Compact(refs), func(other wire.DeploymentRef) bool { return other == ref })
}

// of returns what a Deployment mounts or is about to mount.
func (m *mounts) of(ref wire.DeploymentRef) []container.Mount {
	return slices.Concat(m.planned[ref], m.observed[ref])
}

// release gives up what a Deployment was allowed.
func (m *mounts) release(ref wire.DeploymentRef) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.planned, ref)
}

// sight looks along the paths that containers mount.
func (m *mounts) sight(list []container.Container) *bind.Sight {
	var all []container.Mount
	for _, c := range list {
		all = append(all, c.Mounts...)
	}
	return m.rules().Sight(all)
}

// check says why a container may not have its mounts; nil when it may. A path
// that is gone or cannot be looked at is no reason to stop what runs: no container can
// make it again, and none closed it.
func (m *mounts) check(sight *bind.Sight, c *container.Container) error {
	if err := sight.Check(c.Mounts); err != nil && !bind.Lost(err) {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := bind.Inside(c.Mounts, m.observed[c.Ref]); err != nil {
		return err
	}
	return m.insideOfOthers(c.Ref, c.Mounts)
}

// allows checks once more the mounts of a container that is about to start, and says
// what was seen of them.
func (m *mounts) allows(list []container.Mount) (*bind.Sight, error) {
	sight := m.rules().Sight(list)
	return sight, sight.Check(list)
}
