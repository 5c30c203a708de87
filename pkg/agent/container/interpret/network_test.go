package interpret_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

const one, two = `{"name":"a","image":"localhost/a:1"}`, `{"name":"a","image":"localhost/a:1"},{"name":"b","image":"localhost/b:1","ports":[{"hostPort":80,"containerPort":80}]}`

func TestNetworks(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		services, network string
		want              container.Network
		before            bool
	}{
		"one service":             {one, ``, container.Network{}, false},
		"one service, an address": {one, `{"ipv6":true}`, container.Network{Mode: container.NetworkBridge, Name: "shop_web_ipv6", Owner: "shop_web", IPv6: true}, false},
		"several":                 {two, ``, container.Network{Mode: container.NetworkBridge, Name: "shop_web", Owner: "shop_web"}, true},
		"several, and no answer":  {two, `{"mode":"Private"}`, container.Network{}, false},
		"by name":                 {one, `{"name":"plant"}`, container.Network{Mode: container.NetworkBridge, Name: "shop__plant", Owner: "shop"}, false},
		"of the device":           {one, `{"mode":"Host"}`, container.Network{Mode: container.NetworkHost}, false},
		"none":                    {two, `{"mode":"None","hostAliases":[{"ip":"192.0.2.1","hostnames":["far","far.test"]}]}`, container.Network{Mode: container.NetworkNone, Hosts: []string{"far:192.0.2.1", "far.test:192.0.2.1"}}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rest := ""
			if tt.network != "" {
				rest = `,"network":` + tt.network
			}
			if tt.want.Mode == container.NetworkNone {
				tt.services = one
			}
			w, err := interpretBody(`{"type":"PodmanV0","data":{"services":[` + tt.services + `]` + rest + `}}`)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, w.Services[0].Network); diff != "" {
				t.Error(diff)
			}
			if (w.Before != nil) != tt.before {
				t.Errorf("before is %v", w.Before)
			}
		})
	}
}

// The network is a part of the hash of a service, except where it is as it always was: an
// upgrade changes no hash of a single service.
func TestHashesOfNetworks(t *testing.T) {
	t.Parallel()
	hash := func(services, rest string) string {
		w, err := interpretBody(`{"type":"PodmanV0","data":{"services":[` + services + `]` + rest + `}}`)
		if err != nil {
			t.Fatal(err)
		}
		return w.Services[0].Hash
	}
	const golden = "06aaf41b057a2bcbdd9d6034d0ab600b75da3d08ac4ddea5d497f473d7b7faed"
	alone := hash(one, "")
	if alone != golden || hash(one, `,"network":{}`) != golden || hash(two, `,"network":{"mode":"Private"}`) != golden {
		t.Errorf("the hash is %s", alone)
	}
	shared := hash(two, `,"network":{"mode":"Shared"}`)
	others := []string{alone, hash(two, ""), shared, hash(one, `,"network":{"mode":"Host"}`), hash(one, `,"network":{"dns":{"nameservers":["192.0.2.1"]}}`)}
	seen := map[string]bool{}
	for _, h := range others {
		seen[h] = true
	}
	if len(seen) != len(others) {
		t.Errorf("networks have one hash: %v", others)
	}
}
