package score

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Demand is a field of a score that needs more of its namespace than the least.
type Demand struct {
	// Field is its path: "services[0].hostPID".
	Field string
	// Privilege is the least that the namespace must allow.
	Privilege Privilege
}

// Demands are all of a score, in the order of its services.
type Demands []Demand

// Privilege is the least that satisfies all of them.
func (d Demands) Privilege() Privilege {
	least := Restricted
	for _, each := range d {
		least = max(least, each.Privilege)
	}
	return least
}

// shownDemands is how many fields an error names.
const shownDemands = 5

// Beyond names the fields that need more than a privilege, and what they need: "data.services[0].hostPID
// needs privilege privileged". It is empty when there are none.
func (d Demands) Beyond(allowed Privilege) string {
	var names []string
	least := allowed
	for _, each := range d {
		if each.Privilege > allowed {
			names, least = append(names, "data."+each.Field), max(least, each.Privilege)
		}
	}
	if len(names) == 0 {
		return ""
	}
	more := ""
	if n := len(names) - shownDemands; n > 0 {
		names, more = names[:shownDemands], fmt.Sprintf(" and %d more fields", n)
	}
	verb := "needs"
	if len(names) > 1 {
		verb = "need"
	}
	return fmt.Sprintf("%s%s %s privilege %s", strings.Join(names, ", "), more, verb, least)
}

// Demands returns the fields that need more of the namespace than the least.
func (p *PodmanV0) Demands() Demands {
	var d Demands
	if p.NetworkMode() == NetworkHost {
		d = append(d, Demand{"network.mode", Privileged})
	}
	for i := range p.InitContainers {
		d = append(d, p.InitContainers[i].demands(index("initContainers", i))...)
	}
	for i := range p.Services {
		d = append(d, p.Services[i].demands(index("services", i))...)
	}
	return d
}

// demands are in the spirit of the Pod Security Standards of Kubernetes.
func (s *Service) demands(at string) (d Demands) {
	need := func(field string, p Privilege) { d = append(d, Demand{at + "." + field, p}) }
	for i, v := range s.Volumes {
		if v.HostPath != "" {
			need(index("volumes", i)+".hostPath", Privileged)
		}
	}
	for i := range s.Devices {
		need(index("devices", i), Privileged)
	}
	for i := range s.CDIDevices {
		need(index("cdiDevices", i), Privileged)
	}
	for i := range s.HostServices {
		need(index("hostServices", i), Privileged)
	}
	if s.HostPID {
		need("hostPID", Privileged)
	}
	if s.HostIPC {
		need("hostIPC", Privileged)
	}
	return append(d, s.SecurityContext.demands(at+".securityContext")...)
}

// demands leaves out what only a correct value tells.
func (c *SecurityContext) demands(at string) (d Demands) {
	if c == nil {
		return nil
	}
	need := func(field string, p Privilege) { d = append(d, Demand{at + "." + field, p}) }
	if c.Escalates() {
		need("allowPrivilegeEscalation", Baseline)
	}
	for i, name := range c.Capabilities.Add {
		if p := ofCapability(name); p > Restricted && slices.Contains(capabilities, name) {
			need(index("capabilities.add", i), p)
		}
	}
	if c.SeccompProfile.Type == SeccompUnconfined {
		need("seccompProfile", Privileged)
	}
	if o := c.SELinuxOptions; (cmp.Or(o.User, o.Role) != "" || o.Type != "" && !slices.Contains(baselineTypes, o.Type)) && o.validate("") == nil {
		need("seLinuxOptions", Privileged)
	}
	for i, s := range c.Sysctls {
		if !SafeSysctl(s.Name) && s.validateName("") == nil {
			need(index("sysctls", i), Privileged)
		}
	}
	return d
}

var (
	// baselineCapabilities are those that the Pod Security Standards let a namespace of
	// baseline add.
	baselineCapabilities = strings.Fields("AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT")
	// baselineTypes are the types of SELinux that they let it have.
	baselineTypes = []string{"container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
	// safeSysctls are those that they let every namespace set.
	safeSysctls = []string{
		"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
		"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
		"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
	}
)

// ofCapability is the least privilege of a namespace that may add a capability.
func ofCapability(name string) Privilege {
	switch {
	case name == "NET_BIND_SERVICE":
		return Restricted
	case slices.Contains(baselineCapabilities, name):
		return Baseline
	}
	return Privileged
}

// BeyondBaseline reports whether a capability is one that a namespace needs to be privileged for.
func BeyondBaseline(capability string) bool { return ofCapability(capability) > Baseline }

// SafeSysctl reports whether every namespace may set a sysctl.
func SafeSysctl(name string) bool { return slices.Contains(safeSysctls, name) }
