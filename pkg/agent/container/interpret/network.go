package interpret

import (
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

var modes = map[score.NetworkMode]container.NetworkMode{
	score.NetworkPrivate: container.NetworkPrivate, score.NetworkBridge: container.NetworkBridge, score.NetworkShared: container.NetworkShared,
	score.NetworkHost: container.NetworkHost, score.NetworkNone: container.NetworkNone,
}

// connect connects the services of a workload. The network is a part of what a container is
// made from, and so of its hash, unless it is connected as before there was a choice.
func connect(w *plan.Workload, p *score.PodmanV0) {
	if p.Plain() {
		return
	}
	n := networkOf(w.Ref, p)
	if n.Mode == container.NetworkShared {
		for _, s := range w.Services {
			n.Ports = append(n.Ports, s.Ports...)
		}
		n.Name = container.SharedNetwork(w.Ref, &n)
	}
	if n.Object() {
		w.Networks = []container.Network{n}
	}
	if p.Network == nil {
		w.Before = make(map[string]string, len(w.Services))
	}
	sum := n.Sum()
	for i := range w.Services {
		s := &w.Services[i]
		if w.Before != nil {
			w.Before[s.Service] = s.Hash
		}
		s.Network, s.Hash = n, wire.Sum([]byte(s.Hash+sum)).String()
	}
}

func networkOf(ref wire.DeploymentRef, p *score.PodmanV0) container.Network {
	n := container.Network{Mode: modes[p.NetworkMode()]}
	var given score.Network
	if p.Network != nil {
		given = *p.Network
	}
	switch n.Mode {
	case container.NetworkBridge:
		n.Name, n.Owner = container.NamedNetwork(ref, given.Name, given.IPv6)
		n.IPv6 = given.IPv6
	case container.NetworkShared:
		n.Owner = container.LabelValue(ref)
	}
	for _, alias := range given.HostAliases {
		for _, name := range alias.Hostnames {
			n.Hosts = append(n.Hosts, name+":"+alias.IP)
		}
	}
	n.Servers, n.Searches, n.Options = slices.Clone(given.DNS.Nameservers), given.DNS.Searches, given.DNS.Options
	return n
}
