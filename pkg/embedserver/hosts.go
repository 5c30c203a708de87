package embedserver

import (
	"net"
	"os"
	"slices"
	"strings"
)

// servingHosts lists the names and addresses under which the server may be
// reached: what the operator names first, then the host's own.
func servingHosts(extra []string) []string {
	hosts := slices.Clone(extra)
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	hosts = append(hosts, "localhost", "127.0.0.1", "::1")
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return hosts // what is listed already has to do
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			hosts = append(hosts, n.IP.String())
		}
	}
	return hosts
}

// preferredHost is what the server calls itself in what it prints: the first
// name that the operator gave, else the address that it listens on, else one
// that other machines can reach.
func preferredHost(extra []string, listen string) string {
	for _, name := range extra {
		if !strings.HasPrefix(name, "*.") { // good for a certificate only
			return name
		}
	}
	if host, _, err := net.SplitHostPort(listen); err == nil && host != "" && !net.ParseIP(host).IsUnspecified() {
		return host
	}
	for _, h := range servingHosts(nil) {
		if ip := net.ParseIP(h); ip != nil && !ip.IsLoopback() && ip.To4() != nil {
			return h
		}
	}
	return "localhost"
}
