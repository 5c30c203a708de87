package score

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DefaultGrace is how long a container has to end that says nothing about it.
const DefaultGrace = 30 * time.Second

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
	// Lifecycle is done when the container starts and ends.
	Lifecycle *Lifecycle `json:"lifecycle,omitempty"`
	// DependsOn are the services that this one waits for before it starts. To change it
	// replaces no container.
	DependsOn []Dependency `json:"dependsOn,omitempty"`
	// Schedule makes it a job that runs at certain times. To change it replaces no container.
	Schedule *Schedule `json:"schedule,omitempty"`
	// TimeoutSeconds is how long an init container may run, 300 when it is nil, or a run of
	// a service with a schedule, for ever when it is nil. Other services have none.
	TimeoutSeconds *int `json:"timeoutSeconds,omitempty"`
}

// RestartPolicy says when a container that ended is started again.
type RestartPolicy string

// Values of RestartPolicy.
const (
	RestartAlways    RestartPolicy = "Always"
	RestartOnFailure RestartPolicy = "OnFailure"
	RestartNever     RestartPolicy = "Never"
)

// Hash names the content of one service, so that a change of one service
// leaves the containers of the others alone. Probes are no part of it, nor what decides
// when it starts and how long it may run: a container knows nothing of them.
func (s *Service) Hash() string {
	content := *s
	content.StartupProbe, content.LivenessProbe, content.ReadinessProbe = nil, nil, nil
	content.DependsOn, content.Schedule, content.TimeoutSeconds = nil, nil, nil
	body, err := json.Marshal(content)
	if err != nil {
		panic(fmt.Sprintf("encoding a service: %v", err)) // strings, numbers and lists always encode
	}
	return Hash(body)
}

func (s *Service) validate(at string) error {
	return all(
		checkLabel(at+".name", s.Name),
		checkImage(at+".image", s.Image),
		checkOneOf(at+".restart", s.Restart, RestartAlways, RestartOnFailure, RestartNever),
		checkStrings(at+".command", s.Command),
		checkStrings(at+".args", s.Args),
		validateEach(at+".env", s.Env, EnvVar.validate),
		validateEach(at+".ports", s.Ports, Port.validate),
		validateEach(at+".volumes", s.Volumes, Volume.validate),
		s.Resources.Limits.validate(at+".resources.limits"),
		s.validateEnd(at),
		s.validateProbes(at),
		s.validateLifecycle(at),
		s.validateSchedule(at),
		s.validateTimeout(at),
		s.validateMounts(at),
	)
}

func (s *Service) validateEnd(at string) error {
	var signal error
	if s.StopSignal != "" && s.Signal() == 0 {
		signal = fieldErrorf(at+".stopSignal", "%.32q is not the name of a signal such as SIGTERM or SIGRTMIN+3", s.StopSignal)
	}
	return all(checkWithin(at+".terminationGracePeriodSeconds", s.TerminationGracePeriodSeconds, 0, int(maxGrace.Seconds())), signal)
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
	var found mistakes
	mounted := map[string]bool{}
	for i, v := range s.Volumes {
		if v.MountPath != "" && mounted[v.MountPath] {
			found.add(fieldErrorf(index(at+".volumes", i)+".mountPath", "%.80q is mounted twice", v.MountPath))
		}
		mounted[v.MountPath] = true
	}
	return found.err()
}
