package resolv

import (
	"net/netip"
	"slices"
)

// Forwarders that podman puts first, where the container's network has one. That of
// slirp4netns asks whom the device asks at the time. That of pasta asks whom the
// device asked when the container started, and stays with it: it is of use where that
// is the device's own resolver, which a container reaches by nothing else.
const (
	slirpForwarder = "10.0.2.3"
	pastaForwarder = "169.254.1.1"
)

// fallbacks are what podman names when the device has no server that a container
// reaches.
var fallbacks = []string{"8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"}

// Device is whom the device asks.
type Device struct {
	Conf
	// Upstream are whom the resolver asks that listens on the device's loopback; none
	// where that is not known.
	Upstream Conf
}

// outside are the servers that containers reach.
func (d Device) outside() []string {
	if servers := d.reachable(); len(servers) > 0 {
		return servers
	}
	return d.Upstream.reachable()
}

// own reports whether the device asks a resolver of its own, and nobody else.
func (d Device) own() bool { return len(d.Servers) > 0 && len(d.reachable()) == 0 }

// Follow returns what the file of a container has to hold, and whether it has to be
// written. A file stays as it is when podman would write the same now, when neither
// podman nor Follow wrote it, and when the device has no server. before is whom the
// device asked before, as far as known.
func Follow(file Conf, now, before Device) (Conf, bool) {
	forwarder := file.forwarder()
	switch {
	case len(now.Servers) == 0, forwarder == "" && !file.Kept && !file.copied(now, before):
		return file, false
	case !file.Kept && file.names(withForwarder(forwarder, now.outside()), now.Search):
		return file, false
	}
	next := Conf{
		Servers: now.outside(), Search: now.Search, Options: now.Options,
		Kept: true, Forwarder: forwarder, Local: forwarder == pastaForwarder && (file.Local || file.startedUnder(before)),
	}
	switch {
	case forwarder == slirpForwarder, now.own() && next.Local:
		next.Servers = withForwarder(forwarder, next.Servers)
	case now.own() && forwarder != "":
		next.Servers = append(next.Servers, forwarder)
	}
	if len(next.Servers) == 0 {
		return file, false
	}
	return next, !file.Kept || file.String() != next.String()
}

func withForwarder(forwarder string, servers []string) []string {
	if forwarder == "" {
		return servers
	}
	return append([]string{forwarder}, servers...)
}

// startedUnder reports whether the container of a file that podman wrote started when
// the device asked its own resolver.
func (c Conf) startedUnder(d Device) bool {
	if c.Kept || !d.own() || len(c.Servers) == 0 {
		return false
	}
	rest, outside := c.Servers[1:], d.outside()
	if len(outside) == 0 {
		outside = fallbacks
	}
	return !slices.ContainsFunc(rest, func(server string) bool { return !slices.Contains(outside, server) })
}

// forwarder is the one that podman named, or "".
func (c Conf) forwarder() string {
	switch {
	case c.Kept && (c.Forwarder == slirpForwarder || c.Forwarder == pastaForwarder):
		return c.Forwarder
	case !c.Kept && len(c.Servers) > 0 && (c.Servers[0] == slirpForwarder || c.Servers[0] == pastaForwarder):
		return c.Servers[0]
	}
	return ""
}

// copied reports whether podman took the servers from the device, where it named no
// forwarder: on one that has IPv6 only.
func (c Conf) copied(devices ...Device) bool {
	known := slices.Clone(fallbacks)
	for _, d := range devices {
		known = append(known, d.outside()...)
	}
	return len(c.Servers) > 0 && !slices.ContainsFunc(c.Servers, func(server string) bool { return !slices.Contains(known, server) })
}

// names reports whether the file has these servers, maybe without those of IPv6, and
// domains.
func (c Conf) names(servers, search []string) bool {
	without := slices.DeleteFunc(slices.Clone(servers), func(server string) bool {
		addr, err := netip.ParseAddr(server)
		return err == nil && addr.Is6()
	})
	return (slices.Equal(c.Servers, servers) || slices.Equal(c.Servers, without)) && slices.Equal(c.Search, search)
}
