package containertest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// SetBridge sets what networks lack; empty for nothing.
func (f *Fake) SetBridge(lacks string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noBridge = lacks
}

// Unlabelled makes containers look as if an agent up to 0.1 had made them.
func (f *Fake) Unlabelled(hashes map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		c.Network, c.spec.Network = "", container.Network{}
		c.Hash = hashes[c.Service]
	}
}

// EnsureNetwork implements container.Runtime.
func (f *Fake) EnsureNetwork(_ context.Context, n *container.Network) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, there := f.networks[n.Name]; f.down != nil || there {
		return f.down
	}
	f.record("network %s", n.Name)
	f.networks[n.Name] = *n
	return nil
}

// Networks implements container.Runtime.
func (f *Fake) Networks(_ context.Context, ref wire.DeploymentRef) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(f.networks)) {
		owner := f.networks[name].Owner
		if ref == (wire.DeploymentRef{}) || owner == container.LabelValue(ref) || owner == ref.Namespace {
			names = append(names, name)
		}
	}
	return names, f.down
}

// RemoveNetwork implements container.Runtime.
func (f *Fake) RemoveNetwork(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, there := f.networks[name]; f.down != nil || !there {
		return f.down
	}
	for _, c := range f.containers {
		if network(&c.spec) == name {
			return fmt.Errorf("network %s: %w", name, container.ErrNetworkInUse)
		}
	}
	f.record("unnetwork %s", name)
	delete(f.networks, name)
	delete(f.held, name)
	return nil
}

// HaltNetwork implements container.Runtime.
func (f *Fake) HaltNetwork(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if network(&c.spec) == name && c.State == container.StateRunning {
			return f.down
		}
	}
	if f.down == nil {
		delete(f.held, name)
	}
	return f.down
}

// network is the name of the network that a container is connected to.
func network(spec *container.Spec) string {
	if spec.Stage == container.StageTrial {
		return ""
	}
	return spec.Network.Name
}

// netless reports a container whose network is not there.
func (f *Fake) netless(spec *container.Spec) error {
	name := network(spec)
	if _, there := f.networks[name]; name != "" && !there {
		return fmt.Errorf("network %s: not found", name)
	}
	return nil
}

// heldPort is a port of a container that another network holds, whether or not a container
// of that runs.
func (f *Fake) heldPort(c *entry) (uint16, bool) {
	for name := range f.held {
		if name == network(&c.spec) {
			continue
		}
		for _, p := range portsOf(&c.spec) {
			if slices.ContainsFunc(f.networks[name].Ports, func(o container.Port) bool { return o.Host == p.Host && o.Protocol == p.Protocol }) {
				return p.Host, true
			}
		}
	}
	return 0, false
}

// Sever ends what keeps a network. The containers that run in it notice nothing.
func (f *Fake) Sever(network string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		c.Severed = c.Network == network && c.State == container.StateRunning
	}
}

// ClearNames implements container.Runtime.
func (f *Fake) ClearNames(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down == nil {
		f.namesCleared++
	}
	return f.down
}

// NamesCleared is how often ClearNames cleared.
func (f *Fake) NamesCleared() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.namesCleared
}

// RenewNames implements container.Runtime.
func (f *Fake) RenewNames(_ context.Context, network, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.record("names %s", network)
	return f.down
}
