package driver

import (
	"context"
	"errors"
	"net"
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

// connectable reports a network that the device cannot have.
func connectable(n *container.Network, info *container.Info) error {
	switch {
	case n.Mode == container.NetworkBridge && info.NoBridge != "":
		return errors.New("network.mode Bridge, which several services have by default: " + info.NoBridge +
			"; or set network.mode to Private, where services reach each other by published ports")
	case n.Mode == container.NetworkShared && info.NoShared != "":
		return errors.New("network.mode Shared: " + info.NoShared)
	}
	return nil
}

// portOfNames is where those in a network ask for names.
const portOfNames = 53

// errNames: see publishable.
var errNames = errors.New("ports[].hostPort 53 at every address would take the questions for names away from all services of this device that reach each other by name: " +
	"give hostIP, such as the address that others ask, or set network.mode to Private")

// publishable reports a port that would cut others off: what is published of a network
// (NetworkBridge) is taken inside of podman's own network, too, where its server of names is
// asked. See https://github.com/containers/netavark/issues/1079: another port for that server
// does not help netavark before 1.13.
func publishable(s *container.Spec) error {
	taken := func(p container.Port) bool {
		return p.Host == portOfNames && (p.HostIP == "" || net.ParseIP(p.HostIP).IsUnspecified())
	}
	if s.Network.Mode == container.NetworkBridge && slices.ContainsFunc(s.Ports, taken) {
		return errNames
	}
	return nil
}

// ensureNetwork makes a network, where the device can.
func (d *Driver) ensureNetwork(ctx context.Context, n *container.Network) error {
	if info, err := d.Info(); err == nil {
		if err := connectable(n, &info); err != nil {
			return err
		}
	}
	return d.runtime.EnsureNetwork(ctx, n)
}

// connected reports whether there may be networks of the Deployment.
func (i *instance) connected(w *plan.Workload) bool {
	return len(w.Networks) > 0 || slices.ContainsFunc(i.containers, func(c container.Container) bool { return c.Network != "" })
}

// removeNetworks lists the steps that remove the networks that a workload does not use. Those
// that other Deployments use stay, and go with the last of them.
func (i *instance) removeNetworks(ctx context.Context, w *plan.Workload) (steps []workload.Step, err error) {
	names, err := i.runtime.Networks(ctx, i.ref)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if slices.ContainsFunc(w.Networks, func(n container.Network) bool { return n.Name == name }) {
			continue
		}
		steps = append(steps, workload.Step{Name: "removing network " + name, Do: func(ctx context.Context) error {
			if err := i.runtime.RemoveNetwork(ctx, name); !errors.Is(err, container.ErrNetworkInUse) {
				return err
			}
			return nil
		}})
	}
	return steps, nil
}

// vacate gives back the ports of networks none of whose containers runs any more, where what
// starts next is in another one.
func (i *instance) vacate(ctx context.Context, next *container.Spec) error {
	for _, name := range i.shared() {
		if name != next.Network.Name {
			if err := i.runtime.HaltNetwork(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// shared are the networks of NetworkShared that containers were in, in order.
func (i *instance) shared() (names []string) {
	for _, c := range i.containers {
		if container.IsShared(c.Network) {
			names = append(names, c.Network)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// giveBack gives back the ports of the network of a container that did not run, where the
// previous one is in another.
func (i *instance) giveBack(ctx context.Context, a plan.Action) error {
	n := &a.Spec.Network
	if n.Mode != container.NetworkShared || a.Container.Network == n.Name {
		return nil
	}
	return i.runtime.HaltNetwork(ctx, n.Name)
}
