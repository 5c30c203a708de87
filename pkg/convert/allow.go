package convert

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/score"
)

// agentYAML are the keys of agent.yaml that bound what containers may have of a device.
type agentYAML struct {
	BindRoots []string `json:"bindRoots,omitempty"`
	Allow     *allow   `json:"allow,omitempty"`
}

type allow struct {
	Devices           []string `json:"devices,omitempty"`
	CDIDevices        []string `json:"cdiDevices,omitempty"`
	HostServices      []string `json:"hostServices,omitempty"`
	HostNamespaces    []string `json:"hostNamespaces,omitempty"`
	Capabilities      []string `json:"capabilities,omitempty"`
	Sysctls           []string `json:"sysctls,omitempty"`
	SeccompUnconfined bool     `json:"seccompUnconfined,omitempty"`
	SELinuxOptions    bool     `json:"seLinuxOptions,omitempty"`
}

// allowing says as a comment what agent.yaml of devices has to allow; it is empty when that is
// nothing.
func allowing(deployments []Deployment) (comment string, err error) {
	n := needed{roots: map[string]bool{}, lists: map[string]map[string]bool{}}
	for i := range deployments {
		n.score(&deployments[i].Score)
	}
	text, err := yaml.Marshal(n.agentYAML())
	if err != nil || strings.TrimSpace(string(text)) == "{}" {
		return "", err
	}
	var b strings.Builder
	b.WriteString("# Devices that run this have to allow it: add to /etc/fleet-agent/agent.yaml, and systemctl restart fleet-agent\n#\n")
	for line := range strings.Lines(string(text)) {
		b.WriteString("#   " + line)
	}
	return b.String() + "#\n", nil
}

// needed collects what Deployments need of a device.
type needed struct {
	roots                map[string]bool
	lists                map[string]map[string]bool
	unconfined, labelled bool
}

func (n *needed) add(list, value string) {
	if n.lists[list] == nil {
		n.lists[list] = map[string]bool{}
	}
	n.lists[list][value] = true
}

func (n *needed) score(s *score.PodmanV0) {
	if s.NetworkMode() == score.NetworkHost {
		n.add("hostNamespaces", "network")
	}
	for _, services := range [][]score.Service{s.InitContainers, s.Services} {
		for i := range services {
			n.service(&services[i])
		}
	}
}

func (n *needed) service(s *score.Service) {
	for _, v := range s.Volumes {
		if v.HostPath != "" {
			n.roots[v.HostPath] = true
		}
	}
	for _, d := range s.Devices {
		n.add("devices", d.Path)
	}
	for _, name := range s.CDIDevices {
		n.add("cdiDevices", name)
	}
	for _, service := range s.HostServices {
		n.add("hostServices", string(service))
	}
	if s.HostPID {
		n.add("hostNamespaces", "pid")
	}
	if s.HostIPC {
		n.add("hostNamespaces", "ipc")
	}
	if s.SecurityContext != nil {
		n.security(s.SecurityContext)
	}
}

func (n *needed) security(c *score.SecurityContext) {
	for _, name := range c.Capabilities.Add {
		if score.BeyondBaseline(name) {
			n.add("capabilities", name)
		}
	}
	for _, s := range c.Sysctls {
		if !score.SafeSysctl(s.Name) {
			n.add("sysctls", s.Name)
		}
	}
	o := c.SELinuxOptions
	n.unconfined = n.unconfined || c.SeccompProfile.Type == score.SeccompUnconfined
	n.labelled = n.labelled || cmp.Or(o.User, o.Role, o.Type, o.Level) != ""
}

func (n *needed) agentYAML() agentYAML {
	list := func(name string) []string { return slices.Sorted(maps.Keys(n.lists[name])) }
	a := allow{
		Devices: list("devices"), CDIDevices: list("cdiDevices"), HostServices: list("hostServices"), HostNamespaces: list("hostNamespaces"),
		Capabilities: list("capabilities"), Sysctls: list("sysctls"), SeccompUnconfined: n.unconfined, SELinuxOptions: n.labelled,
	}
	out := agentYAML{BindRoots: outermost(slices.Sorted(maps.Keys(n.roots)))}
	if len(n.lists) > 0 || n.unconfined || n.labelled {
		out.Allow = &a
	}
	return out
}

// outermost leaves out paths that lie in another one.
func outermost(paths []string) (outer []string) {
	for _, path := range paths {
		if !slices.ContainsFunc(outer, func(root string) bool { return strings.HasPrefix(path, root+"/") }) {
			outer = append(outer, path)
		}
	}
	return outer
}
