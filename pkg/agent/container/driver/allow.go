package driver

import (
	"fmt"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/score"
)

// Allow says what containers of this device may have beyond their own walls, whatever the
// namespaces of the server allow. Its zero value allows nothing. What they may mount is up to
// bind.Policy.
type Allow struct {
	// CDIDevices are names of the Container Device Interface, or their kinds: nvidia.com/gpu.
	CDIDevices []string
	// HostNamespaces are "network", "pid" and "ipc".
	HostNamespaces []string
	// Capabilities are those beyond baseline, without CAP_; Sysctls those that are not safe.
	Capabilities, Sysctls []string
	// Unconfined: a container may be without a filter of system calls. SELinuxOptions: it may
	// have a label of its own.
	Unconfined, SELinuxOptions bool
}

// Values of Allow.HostNamespaces.
const (
	NamespaceNetwork = "network"
	NamespacePID     = "pid"
	NamespaceIPC     = "ipc"
)

// workload says what of a workload is not allowed, or nil.
func (a *Allow) workload(w *plan.Workload) error {
	for i := range w.Services {
		if err := a.service(&w.Services[i]); err != nil {
			return workload.NotAllowed(fmt.Errorf("service %s: %w", w.Services[i].Service, err))
		}
	}
	return nil
}

func (a *Allow) service(s *container.Spec) error {
	r := &s.Rights
	for i, name := range s.CDI {
		kind, _, _ := strings.Cut(name, "=")
		if !slices.Contains(a.CDIDevices, name) && !slices.Contains(a.CDIDevices, kind) {
			return unlisted(fmt.Sprintf("cdiDevices[%d]", i), "cdiDevices", name)
		}
	}
	for i, name := range r.CapAdd {
		if score.BeyondBaseline(name) && !slices.Contains(a.Capabilities, name) {
			return unlisted(fmt.Sprintf("securityContext.capabilities.add[%d]", i), "capabilities", name)
		}
	}
	for name := range r.Sysctls {
		if !score.SafeSysctl(name) && !slices.Contains(a.Sysctls, name) {
			return unlisted("securityContext.sysctls", "sysctls", name)
		}
	}
	switch {
	case s.Network.Mode == container.NetworkHost && !slices.Contains(a.HostNamespaces, NamespaceNetwork):
		return unlisted("network.mode", "hostNamespaces", NamespaceNetwork)
	case r.HostPID && !slices.Contains(a.HostNamespaces, NamespacePID):
		return unlisted("hostPID", "hostNamespaces", NamespacePID)
	case r.HostIPC && !slices.Contains(a.HostNamespaces, NamespaceIPC):
		return unlisted("hostIPC", "hostNamespaces", NamespaceIPC)
	case r.Unconfined && !a.Unconfined:
		return fmt.Errorf("securityContext.seccompProfile: allow.seccompUnconfined in agent.yaml is not true")
	case len(r.SELinux) > 0 && !a.SELinuxOptions:
		return fmt.Errorf("securityContext.seLinuxOptions: allow.seLinuxOptions in agent.yaml is not true")
	}
	return nil
}

// unlisted says that agent.yaml does not list what a field asks for.
func unlisted(field, key, value string) error {
	return fmt.Errorf("%s: allow.%s in agent.yaml does not list %s", field, key, value)
}
