package score

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// TypePodmanV0 is the score type that PodmanV0 decodes.
const TypePodmanV0 = "PodmanV0"

// Limits of PodmanV0.
const (
	maxServices   = 64
	maxListItems  = 256
	maxName       = 63
	maxEnvName    = 256
	maxPathLength = 4096
	maxImage      = 512
	maxSecretName = 253
	maxGrace      = time.Hour
	maxMinReady   = time.Hour
)

// DefaultGrace is how long a container has to end that says nothing about it.
const DefaultGrace = 30 * time.Second

const hostLabel = `[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?`

// PodmanV0 runs containers with podman, one for each service.
type PodmanV0 struct {
	// Services are the containers of the Deployment, at least one.
	Services []Service `json:"services"`
	// MinReadySeconds is how long a service has to run before it counts as ready; 5 when
	// it is nil. To change it replaces no container.
	MinReadySeconds *int `json:"minReadySeconds,omitempty"`
}

// Service is one container.
type Service struct {
	// Name is an RFC 1123 label, unique within the Deployment.
	Name string `json:"name"`
	// Image is a fully qualified reference: docker.io/library/nginx:1.29,
	// registry.example.com/app@sha256:…, localhost/hello:1.
	Image string `json:"image"`
	// Command replaces the image's entrypoint.
	Command []string `json:"command,omitempty"`
	// Args replaces the image's default arguments.
	Args []string `json:"args,omitempty"`
	// Env adds environment variables.
	Env []EnvVar `json:"env,omitempty"`
	// Ports publishes container ports on the device.
	Ports []Port `json:"ports,omitempty"`
	// Volumes mounts named volumes or directories of the device.
	Volumes []Volume `json:"volumes,omitempty"`
	// Restart is Always (the default), OnFailure or Never.
	Restart RestartPolicy `json:"restart,omitempty"`
	// Resources bounds what the container may use.
	Resources Resources `json:"resources,omitzero"`
	// TerminationGracePeriodSeconds is how long the container has to end after it was
	// asked to, before it is killed; DefaultGrace when it is nil.
	TerminationGracePeriodSeconds *int `json:"terminationGracePeriodSeconds,omitempty"`
	// StopSignal asks the container to end: the name of a signal such as SIGINT, or
	// SIGRTMIN+3. Empty for that of the image, which is SIGTERM by default.
	StopSignal string `json:"stopSignal,omitempty"`
	// StartupProbe says when the service has started: until then the other probes wait.
	// When it fails, the service is restarted. To change a probe replaces no container.
	StartupProbe *Probe `json:"startupProbe,omitempty"`
	// LivenessProbe restarts the service when it fails.
	LivenessProbe *Probe `json:"livenessProbe,omitempty"`
	// ReadinessProbe says whether the service is ready.
	ReadinessProbe *Probe `json:"readinessProbe,omitempty"`
}

// Resources are named as in a Kubernetes Pod.
type Resources struct {
	Limits Limits `json:"limits,omitzero"`
}

// Limits are what a container may use at most.
type Limits struct {
	// Memory in bytes, or with one of the suffixes Ki, Mi and Gi: 64Mi. A container
	// that needs more is killed. Empty for no limit.
	Memory string `json:"memory,omitempty"`
}

// EnvVar is one environment variable.
type EnvVar struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
	// ValueFrom takes the value from elsewhere; Value is empty then.
	ValueFrom *EnvVarSource `json:"valueFrom,omitempty"`
}

// EnvVarSource is where the value of an environment variable comes from.
type EnvVarSource struct {
	SecretKeyRef SecretKeyRef `json:"secretKeyRef"`
}

// SecretKeyRef names a key of a Secret in the namespace of the Deployment.
type SecretKeyRef struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

// Port publishes a container port.
type Port struct {
	// HostPort is the port on the device, 1 to 65535. A rootless container
	// usually may not take ports under 1024.
	HostPort int `json:"hostPort"`
	// ContainerPort is the port in the container, 1 to 65535.
	ContainerPort int `json:"containerPort"`
	// HostIP limits the address listened on; all addresses when empty.
	HostIP string `json:"hostIP,omitempty"`
	// Protocol is TCP (the default) or UDP.
	Protocol string `json:"protocol,omitempty"`
}

// Volume mounts either a named volume, a directory of the device, or the keys
// of a Secret as files.
type Volume struct {
	// Name of a volume that belongs to the Deployment; services that use the
	// same name share it.
	Name string `json:"name,omitempty"`
	// HostPath is a directory of the device. It needs a namespace with privilege
	// "privileged", and must lie under a root that the device's agent.yaml allows.
	HostPath string `json:"hostPath,omitempty"`
	// SecretName of a Secret in the namespace of the Deployment. Each key becomes
	// a read-only file.
	SecretName string `json:"secretName,omitempty"`
	// MountPath is where the container sees it.
	MountPath string `json:"mountPath"`
	// ReadOnly mounts it read-only.
	ReadOnly bool `json:"readOnly,omitempty"`
}

// RestartPolicy says when a container that ended is started again.
type RestartPolicy string

// Values of RestartPolicy.
const (
	RestartAlways    RestartPolicy = "Always"
	RestartOnFailure RestartPolicy = "OnFailure"
	RestartNever     RestartPolicy = "Never"
)

// Protocols of a Port.
const (
	ProtocolTCP = "TCP"
	ProtocolUDP = "UDP"
)

var (
	labelPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	// As Kubernetes names Secrets and their keys.
	secretPattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	secretKeyPattern = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)
	memoryPattern    = regexp.MustCompile(`^([1-9][0-9]{0,14})(Ki|Mi|Gi)?$`)
	envPattern       = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	// imagePattern is the grammar of the OCI distribution specification with a
	// mandatory registry: a host name with a dot, localhost, an IPv6 address in
	// brackets, or any host name with a port.
	imagePattern = regexp.MustCompile(`^(` +
		`(localhost|` + hostLabel + `(\.` + hostLabel + `)+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?|` + hostLabel + `:[0-9]{1,5})` +
		`(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

// ParsePodmanV0 decodes and validates the data of a PodmanV0 score. Errors
// wrap ErrInvalid and name the field.
func ParsePodmanV0(data []byte) (*PodmanV0, error) {
	raw, err := parseDocument(data)
	if err != nil {
		return nil, err
	}
	return decodePodmanV0(raw)
}

func decodePodmanV0(raw any) (*PodmanV0, error) {
	var p PodmanV0
	if err := decodeStrict(raw, &p); err != nil {
		return nil, err
	}
	if err := p.validate(); err != nil {
		return nil, err
	}
	return &p, nil
}

// Privilege returns the privilege that the score needs of its namespace.
func (p *PodmanV0) Privilege() Privilege {
	for _, s := range p.Services {
		if slices.ContainsFunc(s.Volumes, func(v Volume) bool { return v.HostPath != "" }) {
			return Privileged
		}
	}
	return Restricted
}

// Secrets returns the names of the Secrets that the score needs, ordered.
func (p *PodmanV0) Secrets() []string {
	names := map[string]bool{}
	for _, s := range p.Services {
		for _, e := range s.Env {
			if e.ValueFrom != nil {
				names[e.ValueFrom.SecretKeyRef.Name] = true
			}
		}
		for _, v := range s.Volumes {
			if v.SecretName != "" {
				names[v.SecretName] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Hash names the content of one service, so that a change of one service
// leaves the containers of the others alone. Probes are no part of it: a container
// knows nothing of them.
func (s *Service) Hash() string {
	content := *s
	content.StartupProbe, content.LivenessProbe, content.ReadinessProbe = nil, nil, nil
	body, err := json.Marshal(content)
	if err != nil {
		panic(fmt.Sprintf("encoding a service: %v", err)) // strings, numbers and lists always encode
	}
	return Hash(body)
}

func (p *PodmanV0) validate() error {
	if len(p.Services) == 0 {
		return fieldErrorf("services", "at least one service is needed")
	}
	if len(p.Services) > maxServices {
		return fieldErrorf("services", "%d services, at most %d are allowed", len(p.Services), maxServices)
	}
	if err := checkWithin("minReadySeconds", p.MinReadySeconds, 0, int(maxMinReady.Seconds())); err != nil {
		return err
	}
	names := map[string]bool{}
	for i := range p.Services {
		s, at := &p.Services[i], fmt.Sprintf("services[%d]", i)
		if err := s.validate(at); err != nil {
			return err
		}
		if names[s.Name] {
			return fieldErrorf(at+".name", "%q is used twice", s.Name)
		}
		names[s.Name] = true
	}
	return p.validateHostPorts()
}

// validateHostPorts refuses ports that the device could not listen on at the
// same time.
func (p *PodmanV0) validateHostPorts() error {
	type owned struct {
		Port
		service string
	}
	byNumber := map[int][]owned{}
	for i, s := range p.Services {
		for j, port := range s.Ports {
			for _, other := range byNumber[port.HostPort] {
				if port.Conflicts(other.Port) {
					return fieldErrorf(fmt.Sprintf("services[%d].ports[%d].hostPort", i, j), "%d is already taken by service %q", port.HostPort, other.service)
				}
			}
			byNumber[port.HostPort] = append(byNumber[port.HostPort], owned{port, s.Name})
		}
	}
	return nil
}

func (s *Service) validate(at string) error {
	if err := checkLabel(at+".name", s.Name); err != nil {
		return err
	}
	if s.Image == "" {
		return fieldErrorf(at+".image", "an image is needed")
	}
	if len(s.Image) > maxImage || !imagePattern.MatchString(s.Image) {
		return fieldErrorf(at+".image", "%.80q is not a fully qualified image reference such as docker.io/library/nginx:1.29", s.Image)
	}
	switch s.Restart {
	case "", RestartAlways, RestartOnFailure, RestartNever:
	default:
		return fieldErrorf(at+".restart", "%.32q is unknown: use Always, OnFailure or Never", s.Restart)
	}
	return cmp.Or(
		checkStrings(at+".command", s.Command),
		checkStrings(at+".args", s.Args),
		validateEach(at+".env", s.Env, EnvVar.validate),
		validateEach(at+".ports", s.Ports, Port.validate),
		validateEach(at+".volumes", s.Volumes, Volume.validate),
		s.Resources.Limits.validate(at+".resources.limits"),
		s.validateEnd(at),
		s.validateProbes(at),
		s.validateMounts(at),
	)
}

func (s *Service) validateEnd(at string) error {
	if err := checkWithin(at+".terminationGracePeriodSeconds", s.TerminationGracePeriodSeconds, 0, int(maxGrace.Seconds())); err != nil {
		return err
	}
	if s.StopSignal != "" && s.Signal() == 0 {
		return fieldErrorf(at+".stopSignal", "%.32q is not the name of a signal such as SIGTERM or SIGRTMIN+3", s.StopSignal)
	}
	return nil
}

// Grace is how long the container has to end. The service must be valid.
func (s *Service) Grace() time.Duration {
	return seconds(s.TerminationGracePeriodSeconds, DefaultGrace)
}

// Signal is the number of StopSignal, or 0 for none.
func (s *Service) Signal() syscall.Signal {
	const first, last = 34, 64 // SIGRTMIN and SIGRTMAX of the C libraries of Linux
	if offset, ok := strings.CutPrefix(s.StopSignal, "SIGRTMIN+"); ok {
		n, err := strconv.ParseUint(offset, 10, 8)
		if err != nil || n > last-first {
			return 0
		}
		return syscall.Signal(first + n)
	}
	return stopSignals[s.StopSignal]
}

// stopSignals are those that programs take as a request to end, by name.
var stopSignals = map[string]syscall.Signal{
	"SIGHUP": syscall.SIGHUP, "SIGINT": syscall.SIGINT, "SIGQUIT": syscall.SIGQUIT, "SIGABRT": syscall.SIGABRT, "SIGKILL": syscall.SIGKILL,
	"SIGUSR1": syscall.SIGUSR1, "SIGUSR2": syscall.SIGUSR2, "SIGALRM": syscall.SIGALRM, "SIGTERM": syscall.SIGTERM, "SIGWINCH": syscall.SIGWINCH,
	"SIGPWR": syscall.SIGPWR,
}

func (s *Service) validateMounts(at string) error {
	mounted := map[string]bool{}
	for i, v := range s.Volumes {
		if mounted[v.MountPath] {
			return fieldErrorf(fmt.Sprintf("%s.volumes[%d].mountPath", at, i), "%q is mounted twice", v.MountPath)
		}
		mounted[v.MountPath] = true
	}
	return nil
}

func (e EnvVar) validate(at string) error {
	if len(e.Name) > maxEnvName || !envPattern.MatchString(e.Name) {
		return fieldErrorf(at+".name", "%.80q is not the name of an environment variable", e.Name)
	}
	if e.ValueFrom == nil {
		return checkStrings(at+".value", []string{e.Value})
	}
	if e.Value != "" {
		return fieldErrorf(at, "value and valueFrom exclude each other")
	}
	ref := e.ValueFrom.SecretKeyRef
	at += ".valueFrom.secretKeyRef"
	return cmp.Or(checkSecretName(at+".name", ref.Name), checkSecretKey(at+".key", ref.Key))
}

func (p Port) validate(at string) error {
	if err := cmp.Or(checkPort(at+".hostPort", p.HostPort), checkPort(at+".containerPort", p.ContainerPort)); err != nil {
		return err
	}
	switch p.Protocol {
	case "", ProtocolTCP, ProtocolUDP:
	default:
		return fieldErrorf(at+".protocol", "%.32q is unknown: use TCP or UDP", p.Protocol)
	}
	if addr, err := p.hostAddr(); err != nil || addr.Zone() != "" {
		return fieldErrorf(at+".hostIP", "%.64q is not an IP address", p.HostIP)
	}
	return nil
}

// Conflicts reports whether one device cannot listen on both ports. Both must
// be valid.
func (p Port) Conflicts(o Port) bool {
	if p.HostPort != o.HostPort || cmp.Or(p.Protocol, ProtocolTCP) != cmp.Or(o.Protocol, ProtocolTCP) {
		return false
	}
	a, errA := p.hostAddr()
	b, errB := o.hostAddr()
	return errA == nil && errB == nil && (a == b || covers(a, b) || covers(b, a))
}

// hostAddr returns the address listened on. That of IPv6 which stands for all
// addresses stands for those of IPv4 too.
func (p Port) hostAddr() (netip.Addr, error) {
	if p.HostIP == "" {
		return netip.IPv6Unspecified(), nil
	}
	addr, err := netip.ParseAddr(p.HostIP)
	return addr.Unmap(), err
}

func covers(all, one netip.Addr) bool {
	return all.IsUnspecified() && (all.Is6() || one.Is4())
}

func (v Volume) validate(at string) error {
	given := 0
	for _, source := range []string{v.Name, v.HostPath, v.SecretName} {
		if source != "" {
			given++
		}
	}
	if given != 1 {
		return fieldErrorf(at, "exactly one of name, hostPath and secretName is needed")
	}
	var err error
	switch {
	case v.Name != "":
		err = checkLabel(at+".name", v.Name)
	case v.HostPath != "":
		err = checkAbsolute(at+".hostPath", v.HostPath)
	default:
		err = checkSecretName(at+".secretName", v.SecretName)
	}
	return cmp.Or(err, checkAbsolute(at+".mountPath", v.MountPath))
}

// minMemory is less than any program needs: crun alone takes half a megabyte.
const minMemory = 4 << 20

func (l Limits) validate(at string) error {
	if l.Memory == "" {
		return nil
	}
	if bytes, ok := l.memory(); !ok || bytes < minMemory {
		return fieldErrorf(at+".memory", "%.32q is not at least 4Mi: use bytes, or a number with Ki, Mi or Gi", l.Memory)
	}
	return nil
}

// MemoryBytes is the limit of memory in bytes, 0 for none. The limits must be
// valid.
func (l Limits) MemoryBytes() int64 {
	bytes, _ := l.memory()
	return bytes
}

func (l Limits) memory() (bytes int64, ok bool) {
	m := memoryPattern.FindStringSubmatch(l.Memory)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := map[string]int{"": 0, "Ki": 10, "Mi": 20, "Gi": 30}[m[2]]
	if err != nil || n > math.MaxInt64>>shift {
		return 0, false
	}
	return n << shift, true
}

func validateEach[T any](at string, items []T, validate func(T, string) error) error {
	if len(items) > maxListItems {
		return fieldErrorf(at, "%d items, at most %d are allowed", len(items), maxListItems)
	}
	for i, item := range items {
		if err := validate(item, fmt.Sprintf("%s[%d]", at, i)); err != nil {
			return err
		}
	}
	return nil
}

func checkLabel(field, name string) error {
	if len(name) > maxName || !labelPattern.MatchString(name) {
		return fieldErrorf(field, "%.80q must be at most %d lower-case letters, digits and '-', beginning and ending with a letter or digit", name, maxName)
	}
	return nil
}

func checkSecretName(field, name string) error {
	if len(name) > maxSecretName || !secretPattern.MatchString(name) {
		return fieldErrorf(field, "%.80q is not the name of a Secret", name)
	}
	return nil
}

func checkSecretKey(field, key string) error {
	if len(key) > maxSecretName || !secretKeyPattern.MatchString(key) || key == "." || key == ".." {
		return fieldErrorf(field, "%.80q is not a key of a Secret", key)
	}
	return nil
}

func checkAbsolute(field, p string) error {
	if len(p) > maxPathLength || !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, "\x00:,") {
		return fieldErrorf(field, "%.80q is not an absolute path in its shortest form", p)
	}
	return nil
}

func checkStrings(field string, values []string) error {
	if len(values) > maxListItems {
		return fieldErrorf(field, "%d items, at most %d are allowed", len(values), maxListItems)
	}
	if slices.ContainsFunc(values, func(s string) bool { return strings.ContainsRune(s, 0) }) {
		return fieldErrorf(field, "contains a NUL byte")
	}
	return nil
}

func checkPort(field string, n int) error {
	if n < 1 || n > 65535 {
		return fieldErrorf(field, "%d is not within 1 to 65535", n)
	}
	return nil
}
