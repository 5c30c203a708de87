package container

import (
	"encoding/json"
	"fmt"
	"strings"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// LabelNetwork is on networks: the Deployment that one belongs to, as in LabelDeployment, or
// the namespace whose Deployments share it. On a container it is what the container is
// connected to: the name of a network, or a NetworkMode. Containers of their own network have
// none, as those of agents up to 0.1.
const LabelNetwork = "fleet.nationtech.io/network"

// NetworkMode is how a container is connected.
type NetworkMode string

// Values of NetworkMode.
const (
	// NetworkPrivate: a network of its own, with a way out.
	NetworkPrivate NetworkMode = ""
	// NetworkBridge: a network with others, which know it by the name of its service.
	NetworkBridge NetworkMode = "bridge"
	// NetworkShared: the same network, to the last address, as the others of its Deployment.
	NetworkShared NetworkMode = "shared"
	// NetworkHost is that of the device.
	NetworkHost NetworkMode = "host"
	// NetworkNone: loopback alone.
	NetworkNone NetworkMode = "none"
)

// Network is what containers are connected to.
type Network struct {
	Mode NetworkMode
	// Name is what the runtime calls it; empty unless Mode is NetworkBridge or NetworkShared.
	Name string
	// Owner is its LabelNetwork.
	Owner string
	// IPv6: it has addresses of IPv6, too.
	IPv6 bool
	// Hosts are further names that containers know, as NAME:ADDRESS.
	Hosts []string
	// Servers are asked for names in place of those of the device; Searches and Options are
	// those of resolv.conf.
	Servers, Searches, Options []string
	// Ports are those that a NetworkShared publishes, for all its containers.
	Ports []Port
}

// Object reports whether the runtime has to make something for the network before a
// container can be connected.
func (n *Network) Object() bool { return n.Name != "" }

// label is what a container of the network has as LabelNetwork, or "".
func (n *Network) label() string {
	if n.Object() {
		return n.Name
	}
	return string(n.Mode)
}

// NamedNetwork is the name of a network, which is Deployment's own when name is empty.
// Deployments and namespaces have no underscore in their names, so no two networks collide.
func NamedNetwork(ref wire.DeploymentRef, name string, ipv6 bool) (network, owner string) {
	network, owner = LabelValue(ref), LabelValue(ref)
	if name != "" {
		network, owner = ref.Namespace+"__"+name, ref.Namespace
	}
	if ipv6 {
		network += "_ipv6"
	}
	return network, owner
}

// SharedNetwork is the name of the network that the services of a Deployment are in
// together: another one for another content.
func SharedNetwork(ref wire.DeploymentRef, n *Network) string {
	const digits = 8
	return LabelValue(ref) + "__" + n.Sum()[:digits]
}

// IsShared reports whether a network has a name of SharedNetwork.
func IsShared(network string) bool {
	before, _, found := strings.Cut(network, "__")
	return found && strings.Contains(before, "_")
}

// Sum names the content of a network.
func (n *Network) Sum() string {
	content, err := json.Marshal(n)
	if err != nil {
		panic(fmt.Sprintf("encoding a network: %v", err)) // strings and numbers always encode
	}
	return wire.Sum(content).String()
}
