// Package resolv keeps the resolvers of running containers as those of the device
// are. Podman copies the device's resolv.conf when a container starts, which after a
// power cut is before the network is up; and networks change.
//
// Follow is pure and decides; Files reads and writes. It imports nothing of the
// project, and runs as the account of the containers.
package resolv

import (
	"net/netip"
	"slices"
	"strings"
)

// Conf is a resolv.conf. What programs do not agree about is left out.
type Conf struct {
	// Servers are addresses, an IPv6 one maybe with a zone, in the order of the file.
	Servers []string
	// Search are domains, Options what follows "options".
	Search, Options []string
	// Forwarder is what kept says; "" in a file that Follow did not write.
	Forwarder string
	// Local: the forwarder asks the device's own resolver for certain.
	Local bool
	// Kept: Follow wrote the file.
	Kept bool
}

const (
	// maxServers and maxWords bound what is taken over; resolvers use three servers.
	maxServers, maxWords = 8, 32
	// kept begins the files that Follow wrote, and keeps the address of the forwarder
	// that podman named.
	kept = "# Kept by fleet-agent as the resolv.conf of the device is. Forwarder:"
	// local follows it.
	local = ", of the device"
)

// Parse reads a resolv.conf. Lines that mean nothing are skipped.
func Parse(text string) Conf {
	var c Conf
	for line := range strings.Lines(text) {
		if forwarder, ok := strings.CutPrefix(line, kept); ok {
			c.Kept = true
			c.Forwarder, c.Local = strings.CutSuffix(strings.TrimSpace(forwarder), local)
		}
		line, _, _ = strings.Cut(line, "#")
		line, _, _ = strings.Cut(line, ";")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		arguments := words[1:min(len(words), maxWords)]
		switch words[0] {
		case "nameserver":
			if _, err := netip.ParseAddr(words[1]); err == nil && len(c.Servers) < maxServers {
				c.Servers = append(c.Servers, words[1])
			}
		case "search", "domain": // the last one counts
			c.Search = arguments
		case "options":
			c.Options = append(c.Options, arguments...)
		}
	}
	return c
}

// String is the file.
func (c Conf) String() string {
	var b strings.Builder
	if c.Kept {
		text := strings.TrimSpace(kept + " " + c.Forwarder)
		if c.Local {
			text += local
		}
		b.WriteString(text + "\n")
	}
	if len(c.Search) > 0 {
		b.WriteString("search " + strings.Join(c.Search, " ") + "\n")
	}
	for _, server := range c.Servers {
		b.WriteString("nameserver " + server + "\n")
	}
	if len(c.Options) > 0 {
		b.WriteString("options " + strings.Join(c.Options, " ") + "\n")
	}
	return b.String()
}

// reachable are the servers that a container reaches: neither those of the device's
// own loopback, nor those that belong to one of its links.
func (c Conf) reachable() []string {
	return slices.DeleteFunc(slices.Clone(c.Servers), func(server string) bool {
		addr, err := netip.ParseAddr(server)
		return err != nil || addr.IsLoopback() || addr.IsUnspecified() || addr.IsLinkLocalUnicast()
	})
}
