package score_test

import (
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/score"
)

func TestNetwork(t *testing.T) {
	t.Parallel()
	const one = `{"name":"a","image":"localhost/a","ports":[{"hostPort":80,"containerPort":8080}]}`
	const two = one + `,{"name":"b","image":"localhost/b"}`
	tests := map[string]struct {
		services, network string
		mode              score.NetworkMode
		refused           []string
	}{
		"one service":           {one, `{}`, score.NetworkPrivate, nil},
		"several":               {two, `{}`, score.NetworkBridge, nil},
		"by name":               {one, `{"name":"plant"}`, score.NetworkBridge, nil},
		"all of it":             {two, `{"mode":"Bridge","name":"plant","ipv6":true,"hostAliases":[{"ip":"fd00::1","hostnames":["plc","plc.line-1"]}],"dns":{"nameservers":["192.0.2.1"],"searches":["lan"],"options":["ndots:2"]}}`, score.NetworkBridge, nil},
		"an unknown mode":       {one, `{"mode":"bridge"}`, "bridge", []string{"data.network.mode: \"bridge\" is unknown: use Bridge, Shared, Private, Host or None"}},
		"a name without Bridge": {two, `{"mode":"Shared","name":"plant","ipv6":true}`, score.NetworkShared, []string{"data.network.name: is for mode Bridge alone", "data.network.ipv6: is for"}},
		"ports of no network":   {one, `{"mode":"None","dns":{"searches":["x"]}}`, score.NetworkNone, []string{"data.network.dns: ", "data.services[0].ports[0]: "}},
		"ports of the device":   {one, `{"mode":"Host"}`, score.NetworkHost, []string{"data.services[0].ports[0]: a service in the network of the device (network.mode Host) listens on the device's own ports: hostPort must be containerPort"}},
		"not an address":        {one, `{"hostAliases":[{"ip":"x","hostnames":[]}],"dns":{"nameservers":["1.1.1.1","fe80::1%eth0"]}}`, score.NetworkPrivate, []string{"hostAliases[0].ip", "hostAliases[0].hostnames: at least one", "dns.nameservers[1]"}},
		"too many":              {one, `{"dns":{"nameservers":["1.1.1.1","1.1.1.1","1.1.1.1","1.1.1.1"],"options":["a b"],"searches":["a b"]}}`, score.NetworkPrivate, []string{"dns.nameservers: 4 items, at most 3", "dns.options[0]", "dns.searches[0]"}},
		"not a host name":       {one, `{"hostAliases":[{"ip":"1.1.1.1","hostnames":["a:b"]}]}`, score.NetworkPrivate, []string{"hostAliases[0].hostnames[0]: \"a:b\" is not a host name"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := score.ParsePodmanV0([]byte(`{"services":[` + tt.services + `],"network":` + tt.network + `}`))
			if (err != nil) != (tt.refused != nil) {
				t.Fatalf("got %v", err)
			}
			for _, text := range tt.refused {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%v does not say %q", err, text)
				}
			}
			if err == nil && p.NetworkMode() != tt.mode {
				t.Errorf("the mode is %s", p.NetworkMode())
			}
		})
	}
}

func TestPrivilegeOfTheNetworkOfTheDevice(t *testing.T) {
	t.Parallel()
	needs, err := score.Validate(score.TypePodmanV0, []byte(`{"services":[{"name":"a","image":"localhost/a"}],"network":{"mode":"Host"}}`))
	if err != nil || needs.Privilege != score.Privileged {
		t.Errorf("needs %v, %v", needs, err)
	}
}
