package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Allow says what workloads may have of the device beyond their own walls; nothing by default.
type Allow struct {
	// Devices are paths below /dev, of devices or of directories of them.
	Devices []string `yaml:"devices" env:"FLEET_AGENT_ALLOW_DEVICES"`
	// CDIDevices are names of the Container Device Interface, or their kinds.
	CDIDevices []string `yaml:"cdiDevices" env:"FLEET_AGENT_ALLOW_CDI_DEVICES"`
	// HostServices are udev and dbus.
	HostServices []string `yaml:"hostServices" env:"FLEET_AGENT_ALLOW_HOST_SERVICES"`
	// HostNamespaces are network, pid and ipc.
	HostNamespaces []string `yaml:"hostNamespaces" env:"FLEET_AGENT_ALLOW_HOST_NAMESPACES"`
	// Capabilities are those that a namespace has to be privileged for, without CAP_.
	Capabilities []string `yaml:"capabilities" env:"FLEET_AGENT_ALLOW_CAPABILITIES"`
	// Sysctls are those that a namespace has to be privileged for.
	Sysctls []string `yaml:"sysctls" env:"FLEET_AGENT_ALLOW_SYSCTLS"`
	// SeccompUnconfined: containers may be without a filter of system calls.
	SeccompUnconfined bool `yaml:"seccompUnconfined" env:"FLEET_AGENT_ALLOW_SECCOMP_UNCONFINED"`
	// SELinuxOptions: containers may have labels of their own.
	SELinuxOptions bool `yaml:"seLinuxOptions" env:"FLEET_AGENT_ALLOW_SELINUX_OPTIONS"`
}

// Values of Allow.HostServices and Allow.HostNamespaces.
var (
	hostServices   = []string{"udev", "dbus"}
	hostNamespaces = []string{"network", "pid", "ipc"}
)

// ServicePaths are where the host services are that may be had.
func (a *Allow) ServicePaths() (paths []string) {
	for _, name := range a.HostServices {
		paths = append(paths, "/run/"+name)
	}
	return paths
}

func (a *Allow) validate() error {
	for i, path := range a.Devices {
		if filepath.Clean(path) != path || !strings.HasPrefix(path, "/dev/") {
			return fmt.Errorf("allow.devices[%d]: %.200q is not a path below /dev in its shortest form", i, path)
		}
	}
	for i, name := range a.Capabilities {
		if bare, found := strings.CutPrefix(strings.ToUpper(name), "CAP_"); found || bare != name {
			return fmt.Errorf("allow.capabilities[%d]: %.40q: leave CAP_ out, and use capital letters", i, name)
		}
	}
	for _, list := range []struct {
		key           string
		given, values []string
	}{
		{"hostServices", a.HostServices, hostServices},
		{"hostNamespaces", a.HostNamespaces, hostNamespaces},
	} {
		for i, value := range list.given {
			if !slices.Contains(list.values, value) {
				return fmt.Errorf("allow.%s[%d]: %.40q is unknown: use %s", list.key, i, value, strings.Join(list.values, " or "))
			}
		}
	}
	return nil
}

// Privileges are what workloads may have of the device, key by key; none when that is nothing.
func (c *Config) Privileges() (list []string) {
	a := &c.Allow
	for _, each := range []struct {
		key    string
		values []string
	}{
		{"bindRoots", c.BindRoots},
		{"fileRoots", c.FileRoots},
		{"allow.devices", a.Devices},
		{"allow.cdiDevices", a.CDIDevices},
		{"allow.hostServices", a.HostServices},
		{"allow.hostNamespaces", a.HostNamespaces},
		{"allow.capabilities", a.Capabilities},
		{"allow.sysctls", a.Sysctls},
	} {
		if len(each.values) > 0 {
			list = append(list, each.key+" "+strings.Join(each.values, ", "))
		}
	}
	if a.SeccompUnconfined {
		list = append(list, "allow.seccompUnconfined")
	}
	if a.SELinuxOptions {
		list = append(list, "allow.seLinuxOptions")
	}
	return list
}
