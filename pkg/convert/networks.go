package convert

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/score"
)

// networks translates how the container is connected. Its Deployment has one network.
func (c *container) networks(in *types.ContainerSpec) {
	if c.group.mode != "" || in.NetworkMode == "bridge" {
		take(&in.NetworkMode)
	}
	for name, n := range in.Networks {
		if n == nil {
			delete(in.Networks, name)
			continue
		}
		n.Aliases = slices.DeleteFunc(n.Aliases, func(alias string) bool { return alias == c.out.Name })
		take(&n.Priority) // with one network there is nothing to choose
		take(&n.GatewayPriority)
		if n.UseServiceNameAlias != nil && *n.UseServiceNameAlias {
			take(&n.UseServiceNameAlias)
		}
		c.external(name)
	}
	for name := range in.Networks {
		c.external(name)
	}
	c.hosts(in)
	c.dns(in)
}

// external gives a Deployment the network that it shares with others.
func (c *container) external(name string) {
	n, ok := c.in.Networks[name]
	if !ok || !bool(n.External) || c.group.mode != "" {
		return
	}
	if wanted := label(n.Name); c.group.network().Name == "" {
		c.group.network().Name = wanted
	}
}

// hosts translates extra hosts, which all services of the Deployment know.
func (c *container) hosts(in *types.ContainerSpec) {
	for _, host := range slices.Sorted(maps.Keys(in.ExtraHosts)) {
		for _, ip := range in.ExtraHosts[host] {
			alias := score.HostAlias{IP: ip, Hostnames: []string{host}}
			network := c.group.network()
			switch same := func(a score.HostAlias) bool { return slices.Contains(a.Hostnames, host) }; {
			case ip == "host-gateway" && host == "host.containers.internal":
				// containers know the device by this name
			case ip == "host-gateway":
				c.lost("the device is host.containers.internal in containers", "use that name in place of "+host, "extra_hosts", host)
			case !okAlias(alias):
				c.lost("it is not a name with an IP address", "give an address", "extra_hosts", host)
			case slices.ContainsFunc(network.HostAliases, func(a score.HostAlias) bool { return same(a) && a.IP != ip && !sameFamily(a.IP, ip) }):
				network.HostAliases = append(network.HostAliases, alias)
			case slices.ContainsFunc(network.HostAliases, func(a score.HostAlias) bool { return same(a) && a.IP != ip }):
				c.lost("all services of a Deployment know the same names, and another one has an other address", "give both the same address", "extra_hosts", host)
			case !slices.ContainsFunc(network.HostAliases, same):
				network.HostAliases = append(network.HostAliases, alias)
			}
		}
	}
	take(&in.ExtraHosts)
	c.group.tidy()
}

func sameFamily(a, b string) bool {
	x, _ := netip.ParseAddr(a)
	y, _ := netip.ParseAddr(b)
	return x.Is4() == y.Is4()
}

func okAlias(a score.HostAlias) bool {
	return valid(&score.PodmanV0{Services: []score.Service{{Name: "x", Image: "localhost/x:1"}}, Network: &score.Network{HostAliases: []score.HostAlias{a}}})
}

// tidy leaves no network that says nothing.
func (g *group) tidy() {
	if n := g.Score.Network; n != nil && n.Mode == "" && n.Name == "" && len(n.HostAliases) == 0 && !n.IPv6 && len(n.DNS.Nameservers)+len(n.DNS.Searches)+len(n.DNS.Options) == 0 {
		g.Score.Network = nil
	}
}

// dns translates whom containers ask for names: it is the same for all services.
func (c *container) dns(in *types.ContainerSpec) {
	asked := score.DNS{Nameservers: in.DNS, Searches: in.DNSSearch, Options: in.DNSOpts}
	if len(asked.Nameservers)+len(asked.Searches)+len(asked.Options) == 0 {
		return
	}
	trial := score.PodmanV0{Services: []score.Service{{Name: "x", Image: "localhost/x:1"}}, Network: &score.Network{DNS: asked, Mode: c.group.mode}}
	text := strings.Join([]string{fmt.Sprint(asked.Nameservers), fmt.Sprint(asked.Searches), fmt.Sprint(asked.Options)}, " ")
	before, given := c.group.dns["dns"]
	if given && before != text || !valid(&trial) {
		return // left and reported
	}
	c.group.dns["dns"], c.group.network().DNS = text, asked
	take(&in.DNS)
	take(&in.DNSSearch)
	take(&in.DNSOpts)
}
