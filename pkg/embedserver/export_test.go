package embedserver

import (
	"net"
	"os"
	"time"

	"fleet.nationtech.io/fleet/pkg/connlimit"
	"fleet.nationtech.io/fleet/pkg/pki"
)

// What the tests see of what is unexported.

func Lock(dir string) (*os.File, error) { return lock(dir) }

func ServingHosts(extra []string) []string { return servingHosts(extra) }

func PreferredHost(extra []string, listen string) string { return preferredHost(extra, listen) }

func LocalAddress(a net.Addr) string { return localAddress(a) }

// WriteKubeconfig writes the kubeconfig of a server on a listener.
func WriteKubeconfig(dir string, p *pki.PKI, api net.Listener) error {
	s := &server{Config: Config{DataDir: dir}, pki: p, apiListener: connlimit.New(api, connlimit.Limits{}, nil, nil)}
	return s.writeKubeconfig(time.Now())
}

// PlacesWithin returns the places of API, bus and enrollment.
func PlacesWithin(descriptors int) (api, bus, enrollment connlimit.Limits) {
	p := placesWithin(descriptors)
	return p.api, p.bus, p.enrollment
}

// LimitOf and SoftLimit are the limits of memory.
var (
	LimitOf   = limitOf
	SoftLimit = softLimit
)

// ReviewScore is what the API asks about a new or changed score, ReviewSelector what it asks
// about a target selector, ReviewLabels what it asks about the labels of a Device, and
// ReviewPrivilege what it asks about those of a namespace.
var (
	ReviewScore     = reviewScore
	ReviewSelector  = reviewSelector
	ReviewLabels    = reviewLabels
	ReviewPrivilege = reviewPrivilege
)
