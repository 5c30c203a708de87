package score

import (
	"cmp"
	"net/netip"
	"regexp"
)

// Network says how the services of a Deployment reach each other, and others them.
type Network struct {
	// Mode is Bridge, Shared, Private, Host or None. When it is empty, it is Bridge for several
	// services and where Name or IPv6 is given, and Private for one service.
	Mode NetworkMode `json:"mode,omitempty"`
	// Name of a network that Deployments of the namespace share which give the same one.
	// It needs Bridge.
	Name string `json:"name,omitempty"`
	// IPv6 gives containers addresses of IPv6, too. It needs Bridge. Deployments that share a
	// network give the same.
	IPv6 bool `json:"ipv6,omitempty"`
	// HostAliases are further names that containers know, as in Kubernetes.
	HostAliases []HostAlias `json:"hostAliases,omitempty"`
	// DNS replaces what containers ask for other names.
	DNS DNS `json:"dns,omitzero"`
}

// NetworkMode is how the containers of a Deployment are connected.
type NetworkMode string

// Values of NetworkMode.
const (
	// NetworkBridge: each service has an address and a name in a network of the Deployment.
	NetworkBridge NetworkMode = "Bridge"
	// NetworkShared: all services have one network, and reach each other at localhost.
	NetworkShared NetworkMode = "Shared"
	// NetworkPrivate: each service has a network of its own, and reaches the others by
	// published ports alone.
	NetworkPrivate NetworkMode = "Private"
	// NetworkHost: the network of the device. It needs a namespace with privilege "privileged".
	NetworkHost NetworkMode = "Host"
	// NetworkNone: a loopback address, and nothing else.
	NetworkNone NetworkMode = "None"
)

// HostAlias names an address.
type HostAlias struct {
	// IP is an address of IPv4 or IPv6.
	IP string `json:"ip" template:"address"`
	// Hostnames are its names, at least one.
	Hostnames []string `json:"hostnames"`
}

// DNS says whom containers ask for names.
type DNS struct {
	// Nameservers are IP addresses, at most 3, in place of those of the device.
	Nameservers []string `json:"nameservers,omitempty" template:"address"`
	// Searches are domains that are tried for short names, at most 6.
	Searches []string `json:"searches,omitempty"`
	// Options are those of resolv.conf, such as "ndots:2".
	Options []string `json:"options,omitempty"`
}

const (
	maxNameservers, maxSearches, maxHostname = 3, 6, 253

	bridgeAlone = "is for mode Bridge alone"
)

var (
	hostnamePattern  = regexp.MustCompile(`^` + hostLabel + `(\.` + hostLabel + `)*$`)
	searchPattern    = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?\.?$`)
	dnsOptionPattern = regexp.MustCompile(`^[a-z0-9-]{1,32}(:[0-9]{1,5})?$`)
)

// NetworkMode is the mode that the score gives, or stands for.
func (p *PodmanV0) NetworkMode() NetworkMode {
	var given Network
	if p.Network != nil {
		given = *p.Network
	}
	switch {
	case given.Mode != "":
		return given.Mode
	case given.Name != "", given.IPv6, len(p.Services) > 1:
		return NetworkBridge
	}
	return NetworkPrivate
}

func (p *PodmanV0) validateNetwork() error {
	if p.Network == nil {
		return nil
	}
	mode := p.NetworkMode()
	found := mistakes{}
	found.add(p.Network.validate("network", mode))
	for i, s := range p.Services {
		for j, port := range s.Ports[:min(len(s.Ports), maxListItems)] {
			found.add(port.fits(index(index("services", i)+".ports", j), mode))
		}
	}
	return found.err()
}

// fits refuses ports that a mode of the network cannot publish.
func (p Port) fits(at string, mode NetworkMode) error {
	switch {
	case mode == NetworkNone:
		return fieldErrorf(at, "a service without a network (network.mode None) publishes no port")
	case mode == NetworkHost && p.HostPort != p.ContainerPort:
		return fieldErrorf(at, "a service in the network of the device (network.mode Host) listens on the device's own ports: hostPort must be containerPort")
	case mode == NetworkHost && p.HostIP != "":
		return fieldErrorf(at+".hostIP", "a service in the network of the device (network.mode Host) chooses its address itself: leave it out")
	}
	return nil
}

func (n *Network) validate(at string, mode NetworkMode) error {
	var name, six, servers error
	if n.Name != "" {
		name = checkLabel(at+".name", n.Name)
	}
	if n.Name != "" && mode != NetworkBridge {
		name = fieldErrorf(at+".name", bridgeAlone)
	}
	if n.IPv6 && mode != NetworkBridge {
		six = fieldErrorf(at+".ipv6", bridgeAlone)
	}
	if mode == NetworkNone && !n.DNS.empty() {
		servers = fieldErrorf(at+".dns", "a service without a network (mode None) asks nobody")
	}
	return all(
		checkOneOf(at+".mode", n.Mode, NetworkBridge, NetworkShared, NetworkPrivate, NetworkHost, NetworkNone),
		name, six, servers,
		validateEach(at+".hostAliases", n.HostAliases, HostAlias.validate),
		n.DNS.validate(at+".dns"),
	)
}

func (h HostAlias) validate(at string) error {
	var found mistakes
	found.add(checkAddress(at+".ip", h.IP))
	if len(h.Hostnames) == 0 {
		found.add(fieldErrorf(at+".hostnames", "at least one name is needed"))
	}
	found.add(validateEach(at+".hostnames", h.Hostnames, func(name, at string) error {
		if len(name) > maxHostname || !hostnamePattern.MatchString(name) {
			return fieldErrorf(at, "%.80q is not a host name", name)
		}
		return nil
	}))
	return found.err()
}

func (d DNS) validate(at string) error {
	return all(
		checkAtMost(at+".nameservers", d.Nameservers, maxNameservers, checkAddress),
		checkAtMost(at+".searches", d.Searches, maxSearches, func(field, domain string) error {
			if len(domain) > maxHostname || !searchPattern.MatchString(domain) {
				return fieldErrorf(field, "%.80q is not a domain", domain)
			}
			return nil
		}),
		checkAtMost(at+".options", d.Options, maxListItems, func(field, option string) error {
			if !dnsOptionPattern.MatchString(option) {
				return fieldErrorf(field, "%.40q is not an option of resolv.conf such as ndots:2", option)
			}
			return nil
		}),
	)
}

func checkAtMost(at string, items []string, most int, check func(field, item string) error) error {
	if len(items) > most {
		return fieldErrorf(at, "%d items, at most %d are allowed", len(items), most)
	}
	return validateEach(at, items, func(item, at string) error { return check(at, item) })
}

func checkAddress(field, text string) error {
	if addr, err := netip.ParseAddr(text); err != nil || addr.Zone() != "" {
		return fieldErrorf(field, "%.64q is not an IP address", text)
	}
	return nil
}

// Plain reports whether the containers are connected as those without any network in their
// score.
func (p *PodmanV0) Plain() bool {
	n := cmp.Or(p.Network, &Network{})
	return p.NetworkMode() == NetworkPrivate && len(n.HostAliases) == 0 && n.DNS.empty()
}

func (d DNS) empty() bool { return len(d.Nameservers)+len(d.Searches)+len(d.Options) == 0 }
