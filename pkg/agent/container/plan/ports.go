package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// PortConflict is the error of a Deployment that wants a host port which
// another Deployment on the device has.
type PortConflict struct {
	Port     uint16
	Protocol container.Protocol
	Owner    wire.DeploymentRef
}

func (e *PortConflict) Error() string {
	return fmt.Sprintf("host port %d/%s is taken by Deployment %s: change hostPort of one of the two", e.Port, e.Protocol, e.Owner)
}

// Claim is a workload and whether it runs.
type Claim struct {
	Workload *Workload
	// Running: containers of the workload run, so that it has its ports already.
	Running bool
}

// Conflicts finds the Deployments that cannot have their host ports. Of two
// that want the same one, the Deployment that runs has it; if both or none do,
// the one whose reference comes first.
func Conflicts(claims map[wire.DeploymentRef]Claim) map[wire.DeploymentRef]*PortConflict {
	conflicts := map[wire.DeploymentRef]*PortConflict{}
	var owned []owner
	for _, ref := range precedence(claims) {
		ports := hostPorts(claims[ref].Workload)
		if taken := findTaken(owned, ports); taken != nil {
			conflicts[ref] = taken // and none of its ports: it will not start
			continue
		}
		for _, p := range ports {
			owned = append(owned, owner{p, ref})
		}
	}
	return conflicts
}

type owner struct {
	container.Port
	ref wire.DeploymentRef
}

// precedence orders Deployments: those that run first, then by reference.
func precedence(claims map[wire.DeploymentRef]Claim) []wire.DeploymentRef {
	return slices.SortedFunc(maps.Keys(claims), func(a, b wire.DeploymentRef) int {
		switch {
		case claims[a].Running == claims[b].Running:
			return a.Compare(b)
		case claims[a].Running:
			return -1
		}
		return 1
	})
}

func hostPorts(w *Workload) []container.Port {
	var ports []container.Port
	for _, s := range w.Services {
		ports = append(ports, s.Ports...)
	}
	return ports
}

func findTaken(owned []owner, wanted []container.Port) *PortConflict {
	for _, w := range wanted {
		for _, o := range owned {
			if overlap(w, o.Port) {
				return &PortConflict{Port: w.Host, Protocol: w.Protocol, Owner: o.ref}
			}
		}
	}
	return nil
}

// overlap reports whether two ports cannot both be listened on.
func overlap(a, b container.Port) bool {
	return a.Host == b.Host && a.Protocol == b.Protocol && (a.HostIP == b.HostIP || everywhere(a.HostIP) || everywhere(b.HostIP))
}

func everywhere(ip string) bool {
	addr, err := netip.ParseAddr(ip)
	return err != nil || addr.IsUnspecified()
}
