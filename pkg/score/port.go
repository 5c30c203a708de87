package score

import (
	"cmp"
	"net/netip"
)

// Port publishes a container port.
type Port struct {
	// HostPort is the port on the device, 1 to 65535. A rootless container
	// usually may not take ports under 1024.
	HostPort int `json:"hostPort"`
	// ContainerPort is the port in the container, 1 to 65535.
	ContainerPort int `json:"containerPort"`
	// HostIP limits the address listened on; all addresses when empty.
	HostIP string `json:"hostIP,omitempty" template:"address"`
	// Protocol is TCP (the default) or UDP.
	Protocol string `json:"protocol,omitempty"`
}

// Protocols of a Port.
const (
	ProtocolTCP = "TCP"
	ProtocolUDP = "UDP"
)

func (p Port) validate(at string) error {
	var address error
	if addr, err := p.hostAddr(); err != nil || addr.Zone() != "" {
		address = fieldErrorf(at+".hostIP", "%.64q is not an IP address", p.HostIP)
	}
	return all(
		checkPort(at+".hostPort", p.HostPort),
		checkPort(at+".containerPort", p.ContainerPort),
		checkOneOf(at+".protocol", p.Protocol, ProtocolTCP, ProtocolUDP),
		address,
	)
}

// Conflicts reports whether one device cannot listen on both ports. Both must
// be valid.
func (p Port) Conflicts(o Port) bool {
	if p.HostPort != o.HostPort || cmp.Or(p.Protocol, ProtocolTCP) != cmp.Or(o.Protocol, ProtocolTCP) {
		return false
	}
	a, errA := p.hostAddr()
	b, errB := o.hostAddr()
	return errA == nil && errB == nil && (a == b || covers(a, b) || covers(b, a))
}

// hostAddr returns the address listened on. That of IPv6 which stands for all
// addresses stands for those of IPv4 too.
func (p Port) hostAddr() (netip.Addr, error) {
	if p.HostIP == "" {
		return netip.IPv6Unspecified(), nil
	}
	addr, err := netip.ParseAddr(p.HostIP)
	return addr.Unmap(), err
}

func covers(all, one netip.Addr) bool {
	return all.IsUnspecified() && (all.Is6() || one.Is4())
}
