package score

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// SecurityContext says with which rights a container runs, in the words of a Kubernetes Pod.
type SecurityContext struct {
	// RunAsUser and RunAsGroup are the numbers of the container's user and group, 0 to
	// 65535; nil for those of the image. A user without a group has the group of the
	// image's /etc/passwd, or 0.
	RunAsUser  *int `json:"runAsUser,omitempty"`
	RunAsGroup *int `json:"runAsGroup,omitempty"`
	// SupplementalGroups are further groups of the container.
	SupplementalGroups []int `json:"supplementalGroups,omitempty"`
	// ReadOnlyRootFilesystem lets the container write to its volumes alone.
	ReadOnlyRootFilesystem bool `json:"readOnlyRootFilesystem,omitempty"`
	// AllowPrivilegeEscalation lets programs of the container get more rights than the one
	// that started them, as sudo does. With a securityContext, nil is false.
	AllowPrivilegeEscalation *bool `json:"allowPrivilegeEscalation,omitempty"`
	// Capabilities are added to those that podman gives, or dropped.
	Capabilities Capabilities `json:"capabilities,omitzero"`
	// SeccompProfile bounds the calls of the kernel.
	SeccompProfile SeccompProfile `json:"seccompProfile,omitzero"`
	// SELinuxOptions are parts of the container's label, on devices with SELinux.
	SELinuxOptions SELinuxOptions `json:"seLinuxOptions,omitzero"`
	// Sysctls are set in the container's own namespaces.
	Sysctls []Sysctl `json:"sysctls,omitempty"`
}

// Capabilities are named without CAP_: NET_ADMIN. ALL may be dropped.
type Capabilities struct {
	// Add are those that the container gets besides. Most need a namespace with privilege
	// "privileged".
	Add []string `json:"add,omitempty"`
	// Drop are those that it does not get. With ALL it has those of Add alone.
	Drop []string `json:"drop,omitempty"`
}

// SeccompProfile is RuntimeDefault, which is podman's, or Unconfined.
type SeccompProfile struct {
	Type SeccompType `json:"type"`
}

// SeccompType is the type of a SeccompProfile.
type SeccompType string

// Values of SeccompType.
const (
	SeccompRuntimeDefault SeccompType = "RuntimeDefault"
	SeccompUnconfined     SeccompType = "Unconfined"
)

// SELinuxOptions are the parts of a label that differ from podman's.
type SELinuxOptions struct {
	// User and Role need a namespace with privilege "privileged".
	User string `json:"user,omitempty"`
	Role string `json:"role,omitempty"`
	// Type is container_t and the like; others need a namespace with privilege "privileged".
	Type string `json:"type,omitempty"`
	// Level has the categories: s0:c1,c2.
	Level string `json:"level,omitempty"`
}

// Sysctl is a parameter of the kernel that the container has for itself.
type Sysctl struct {
	// Name has dots: net.ipv4.ip_unprivileged_port_start.
	Name string `json:"name"`
	// Value is as sysctl(8) writes it.
	Value string `json:"value"`
}

var (
	capabilityPattern = regexp.MustCompile(`^[A-Z][A-Z0-9_]{1,31}$`)
	sysctlPattern     = regexp.MustCompile(`^[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\.[a-zA-Z0-9]([-_a-zA-Z0-9]*[a-zA-Z0-9])?)+$`)
	sysctlValue       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 .,:_-]{0,126}$`)
	selinuxPattern    = regexp.MustCompile(`^[A-Za-z0-9_.:,-]{0,128}$`)
)

// capabilities are those that kernels know, without CAP_.
var capabilities = strings.Fields(`AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN
	DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD
	NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT
	SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM`)

// maxID is the last id of a container, whose range of 65,536 ids setup-user makes.
const maxID = 65535

func (c *SecurityContext) validate(at string) error {
	if c == nil {
		return nil
	}
	return all(
		checkWithin(at+".runAsUser", c.RunAsUser, 0, maxID),
		c.validateGroup(at+".runAsGroup"),
		validateEach(at+".supplementalGroups", c.SupplementalGroups, func(id int, at string) error { return checkWithin(at, &id, 0, maxID) }),
		validateEach(at+".capabilities.add", c.Capabilities.Add, checkCapability),
		validateEach(at+".capabilities.drop", c.Capabilities.Drop, func(name, at string) error {
			if name == "ALL" {
				return nil
			}
			return checkCapability(name, at)
		}),
		checkOneOf(at+".seccompProfile.type", c.SeccompProfile.Type, SeccompRuntimeDefault, SeccompUnconfined),
		c.SELinuxOptions.validate(at+".seLinuxOptions"),
		validateEach(at+".sysctls", c.Sysctls, Sysctl.validate),
	)
}

func (c *SecurityContext) validateGroup(field string) error {
	if c.RunAsGroup != nil && c.RunAsUser == nil {
		return fieldErrorf(field, "runAsUser is needed, too")
	}
	return checkWithin(field, c.RunAsGroup, 0, maxID)
}

func checkCapability(name, at string) error {
	if slices.Contains(capabilities, name) {
		return nil
	}
	if bare, found := strings.CutPrefix(strings.ToUpper(name), "CAP_"); found || slices.Contains(capabilities, bare) {
		return fieldErrorf(at, "%.40q: leave CAP_ out, and use capital letters", name)
	}
	if !capabilityPattern.MatchString(name) {
		return fieldErrorf(at, "%.40q is not the name of a capability such as NET_ADMIN", name)
	}
	return fieldErrorf(at, "%.40q is no capability of Linux%s", name, suggest(name, capabilities))
}

func (o *SELinuxOptions) validate(at string) error {
	var found mistakes
	for _, part := range []struct{ name, value string }{{"user", o.User}, {"role", o.Role}, {"type", o.Type}, {"level", o.Level}} {
		if !selinuxPattern.MatchString(part.value) {
			found.add(fieldErrorf(at+"."+part.name, "%.40q is not part of a label", part.value))
		}
	}
	return found.err()
}

func (s Sysctl) validate(at string) error {
	var value error
	if !sysctlValue.MatchString(s.Value) {
		value = fieldErrorf(at+".value", "%.80q is not the value of a sysctl", s.Value)
	}
	return all(s.validateName(at+".name"), value)
}

func (s Sysctl) validateName(field string) error {
	switch {
	case len(s.Name) > maxSecretName || !sysctlPattern.MatchString(s.Name):
		return fieldErrorf(field, "%.80q is not the name of a sysctl such as net.ipv4.ip_forward", s.Name)
	case !namespaced(s.Name):
		return fieldErrorf(field, "%.80q is one of the whole device: a container has its own of net.*, kernel.msg*, kernel.sem, kernel.shm* and fs.mqueue.*", s.Name)
	}
	return nil
}

// namespaced reports whether each container has a sysctl of its own.
func namespaced(name string) bool {
	if name == "kernel.sem" {
		return true
	}
	return slices.ContainsFunc([]string{"net.", "kernel.msg", "kernel.shm", "fs.mqueue."}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// Escalates reports whether programs of the container may get more rights than the one that
// started them. Without a securityContext they may, as ever: containers of before stay what
// they are.
func (c *SecurityContext) Escalates() bool {
	return c == nil || c.AllowPrivilegeEscalation != nil && *c.AllowPrivilegeEscalation
}

// User is who runs in the container, in podman's words; empty for the image's own.
func (c *SecurityContext) User() string {
	switch {
	case c == nil || c.RunAsUser == nil:
		return ""
	case c.RunAsGroup == nil:
		return strconv.Itoa(*c.RunAsUser)
	}
	return strconv.Itoa(*c.RunAsUser) + ":" + strconv.Itoa(*c.RunAsGroup)
}
