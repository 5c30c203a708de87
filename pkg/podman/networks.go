package podman

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/containers/common/libnetwork/types"
	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/specgen"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A container.NetworkBridge is a network of podman's, and a container.NetworkShared a pod, of
// which the containers share the network and nothing else.

// searchDomain is the domain of names of services.
const searchDomain = "dns.podman"

// EnsureNetwork implements container.Runtime. What a power cut left of a network, and podman
// cannot open, podman itself does not know: it is written anew.
func (c *Client) EnsureNetwork(ctx context.Context, n *container.Network) error {
	kind := kindOf(n.Name)
	there, err := c.thereIs(ctx, kind, n.Name)
	if err != nil || there {
		return err
	}
	create := request{method: http.MethodPost, path: kind + "/create", body: podOf(n)}
	if n.Mode == container.NetworkBridge {
		create.body = bridgeOf(n)
	}
	if err := c.call(ctx, create, nil); err != nil && !isThere(err) {
		return fmt.Errorf("creating network %s: %w", n.Name, err)
	}
	return nil
}

// kindOf is what a network is to podman, as in paths of its API.
func kindOf(name string) string {
	if container.IsShared(name) {
		return "/pods"
	}
	return "/networks"
}

// thereIs reports whether podman knows a network.
func (c *Client) thereIs(ctx context.Context, kind, name string) (bool, error) {
	err := c.call(ctx, request{method: http.MethodGet, path: kind + "/%s/exists", values: []string{name}}, nil)
	switch {
	case errors.Is(err, container.ErrNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking for network %s: %w", name, err)
	}
	return true, nil
}

// isThere reports whether podman refused to make a network because somebody else did so
// meanwhile.
func isThere(err error) bool {
	answer, ok := errors.AsType[*refusal](err)
	return ok && answer.status == http.StatusConflict
}

// bridge is what podman's API takes for a new network.
type bridge struct {
	Name   string            `json:"name"`
	Driver string            `json:"driver"`
	IPv6   bool              `json:"ipv6_enabled"`
	DNS    bool              `json:"dns_enabled"`
	Labels map[string]string `json:"labels"`
	// Options are those of podman's driver.
	Options map[string]string `json:"options"`
}

func bridgeOf(n *container.Network) bridge {
	return bridge{
		Name: n.Name, Driver: types.BridgeNetworkDriver, IPv6: n.IPv6, DNS: true, Labels: map[string]string{container.LabelNetwork: n.Owner},
		// Or containers reach those of all other networks by their addresses.
		Options: map[string]string{types.IsolateOption: "true"},
	}
}

func podOf(n *container.Network) *specgen.PodSpecGenerator {
	pod := specgen.NewPodSpecGenerator()
	pod.Name, pod.Labels = n.Name, map[string]string{container.LabelNetwork: n.Owner}
	pod.SharedNamespaces = []string{"net"}
	pod.HostAdd, pod.DNSServer, pod.DNSSearch, pod.DNSOption = n.Hosts, addresses(n.Servers), n.Searches, n.Options
	pod.PortMappings = portMappings(n.Ports)
	return pod
}

func addresses(texts []string) (list []net.IP) {
	for _, text := range texts {
		list = append(list, net.ParseIP(text))
	}
	return list
}

func portMappings(ports []container.Port) (list []types.PortMapping) {
	for _, p := range ports {
		list = append(list, types.PortMapping{HostIP: p.HostIP, HostPort: p.Host, ContainerPort: p.Inside, Protocol: string(p.Protocol)})
	}
	return list
}

// connect connects a new container. gateways are the addresses at which podman's server of
// names listens in its network, where a container has to be told of it.
func connect(g *specgen.SpecGenerator, s *container.Spec, gateways []string) {
	n := &s.Network
	if s.Stage == container.StageTrial || s.Stage == container.StageFiles {
		g.NetNS = specgen.Namespace{NSMode: specgen.NoNetwork}
		return
	}
	if n.Mode == container.NetworkShared {
		g.Pod = n.Name // which has all the rest
		return
	}
	g.HostAdd, g.DNSServers, g.DNSSearch, g.DNSOptions = n.Hosts, addresses(slices.Concat(gateways, n.Servers)), n.Searches, n.Options
	switch n.Mode {
	case container.NetworkHost:
		g.NetNS = specgen.Namespace{NSMode: specgen.Host}
		return
	case container.NetworkNone:
		g.NetNS = specgen.Namespace{NSMode: specgen.NoNetwork}
		return
	case container.NetworkBridge:
		g.NetNS = specgen.Namespace{NSMode: specgen.Bridge}
		g.Networks = map[string]types.PerNetworkOptions{n.Name: {Aliases: []string{s.Service}}}
		if len(gateways) > 0 || len(n.Searches) > 0 {
			// It comes first: a resolver outside that answers to all names of a domain must
			// not take those of services.
			g.DNSSearch = slices.Concat([]string{searchDomain}, n.Searches)
		}
	}
	g.PortMappings = portMappings(s.Ports)
}

// errServers: what the score asks for cannot be said to this podman.
var errServers = errors.New("network.dns.nameservers: podman 4.3 does not know the names of services where it is told whom to ask for others: " +
	"leave nameservers out, set network.mode to Private, or use podman 5")

// gateways are the addresses of podman's server of names in the network of a container.
// Podman 4.3 has to be told, or it names the device's servers besides, and whoever asks all
// of them at once finds no service when another one answers first. Later versions ask it alone.
func (c *Client) gateways(ctx context.Context, s *container.Spec) ([]string, error) {
	if s.Network.Mode != container.NetworkBridge || s.Stage == container.StageTrial || s.Stage == container.StageFiles {
		return nil, nil
	}
	version, err := c.knownVersion(ctx)
	switch {
	case err != nil || !strings.HasPrefix(version, "4.3."):
		return nil, err
	case len(s.Network.Servers) > 0:
		return nil, errServers
	}
	var found struct {
		Subnets list[struct{ Gateway net.IP }]
	}
	if err := c.call(ctx, request{method: http.MethodGet, path: "/networks/%s/json", values: []string{s.Network.Name}}, &found); err != nil {
		return nil, fmt.Errorf("looking for network %s: %w", s.Network.Name, err)
	}
	var all []string
	for _, subnet := range found.Subnets {
		if subnet.Gateway != nil {
			all = append(all, subnet.Gateway.String())
		}
	}
	return all, nil
}

// knownVersion is the version that podman said last, or says now.
func (c *Client) knownVersion(ctx context.Context) (string, error) {
	if version := c.version.Load(); version != nil {
		return *version, nil
	}
	info, err := c.Info(ctx)
	return info.Version, err
}

// Networks implements container.Runtime.
func (c *Client) Networks(ctx context.Context, ref wire.DeploymentRef) ([]string, error) {
	var names []string
	for _, kind := range []string{"/networks", "/pods"} {
		var found list[struct {
			Name   string
			Labels labels
		}]
		query := filters(map[string][]string{"label": {container.LabelNetwork}})
		if err := c.call(ctx, request{method: http.MethodGet, path: kind + "/json", query: query, limit: maxList}, &found); err != nil {
			return nil, fmt.Errorf("listing networks: %w", err)
		}
		for _, n := range found {
			owner, ok := n.Labels[container.LabelNetwork]
			mine := owner == container.LabelValue(ref) || owner == ref.Namespace
			if ok && len(n.Name) <= maxName && kindOf(n.Name) == kind && (ref == wire.DeploymentRef{} || mine) {
				names = append(names, n.Name)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// RemoveNetwork implements container.Runtime. Podman would remove the containers of a pod
// with it, so it is looked first.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	if container.IsShared(name) {
		members, err := c.members(ctx, name)
		if err != nil {
			return err
		}
		if len(members) > 0 {
			return fmt.Errorf("removing network %s: %w", name, container.ErrNetworkInUse)
		}
		if err := c.HaltNetwork(ctx, name); err != nil {
			return err
		}
	}
	err := c.call(ctx, request{method: http.MethodDelete, path: kindOf(name) + "/%s", values: []string{name}}, nil)
	switch {
	case err == nil, errors.Is(err, container.ErrNotFound):
		return nil
	case strings.Contains(err.Error(), define.ErrNetworkInUse.Error()):
		err = &apiError{kind: container.ErrNetworkInUse, text: err.Error()}
	}
	return fmt.Errorf("removing network %s: %w", name, err)
}

// HaltNetwork implements container.Runtime.
func (c *Client) HaltNetwork(ctx context.Context, name string) error {
	if !container.IsShared(name) {
		return nil
	}
	members, err := c.members(ctx, name)
	if err != nil || slices.Contains(members, string(container.StateRunning)) {
		return err
	}
	err = c.call(ctx, request{method: http.MethodPost, path: "/pods/%s/stop", values: []string{name}}, nil)
	if err != nil && !errors.Is(err, container.ErrNotFound) {
		return fmt.Errorf("giving back the ports of network %s: %w", name, err)
	}
	return nil
}

// members are the states of the containers in a pod but the one that keeps its network.
func (c *Client) members(ctx context.Context, pod string) (states []string, err error) {
	var found struct {
		Infra      string `json:"InfraContainerID"`
		Containers list[struct{ ID, State string }]
	}
	err = c.call(ctx, request{method: http.MethodGet, path: "/pods/%s/json", values: []string{pod}, limit: maxList}, &found)
	if errors.Is(err, container.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for network %s: %w", pod, err)
	}
	for _, member := range found.Containers {
		if member.ID != found.Infra {
			states = append(states, member.State)
		}
	}
	return states, nil
}
