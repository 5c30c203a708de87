package embedserver_test

import (
	"net"
	"slices"
	"testing"

	"fleet.nationtech.io/fleet/pkg/embedserver"
)

func TestServingHosts(t *testing.T) {
	t.Parallel()
	hosts := embedserver.ServingHosts([]string{"gateway.example", "192.0.2.1"})
	if hosts[0] != "gateway.example" || hosts[1] != "192.0.2.1" {
		t.Errorf("hosts are %v, want those of the operator first", hosts)
	}
	for _, want := range []string{"localhost", "127.0.0.1", "::1"} {
		if !slices.Contains(hosts, want) {
			t.Errorf("hosts are %v, want %s among them", hosts, want)
		}
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil && ip.IsLinkLocalUnicast() {
			t.Errorf("%s is of one link only", h)
		}
	}
}

func TestPreferredHost(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		extra  []string
		listen string
		want   string
	}{
		"the operator's":    {[]string{"gateway.example", "other"}, "192.0.2.1:8443", "gateway.example"},
		"no wildcard":       {[]string{"*.example", "gateway.example"}, "192.0.2.1:8443", "gateway.example"},
		"the one listened":  {nil, "192.0.2.1:8443", "192.0.2.1"},
		"a name":            {nil, "gateway.example:8443", "gateway.example"},
		"an IPv6 address":   {nil, "[2001:db8::1]:8443", "2001:db8::1"},
		"loopback, as told": {nil, "127.0.0.1:8443", "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := embedserver.PreferredHost(tc.extra, tc.listen); got != tc.want {
				t.Errorf("it calls itself %s, want %s", got, tc.want)
			}
		})
	}
	for _, everywhere := range []string{":8443", "0.0.0.0:8443", "[::]:8443"} {
		got := embedserver.PreferredHost(nil, everywhere)
		if ip := net.ParseIP(got); got != "localhost" && (ip == nil || ip.IsUnspecified() || ip.IsLoopback()) {
			t.Errorf("listening on %s it calls itself %s", everywhere, got)
		}
	}
}

func TestLocalAddress(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"0.0.0.0:6443": "127.0.0.1:6443", "[::]:6443": "127.0.0.1:6443", "192.0.2.1:6443": "192.0.2.1:6443", "127.0.0.1:1": "127.0.0.1:1", "[::1]:6443": "[::1]:6443",
	} {
		addr, err := net.ResolveTCPAddr("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		if got := embedserver.LocalAddress(addr); got != want {
			t.Errorf("%s is reached at %s, want %s", listen, got, want)
		}
	}
}
