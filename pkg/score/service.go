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
	Command []string `json:"command,omitempty" template:"text"`
	// Args replaces the image's default arguments.
	Args []string `json:"args,omitempty" template:"text"`
	// Env adds environment variables.
	Env []EnvVar `json:"env,omitempty"`
	// EnvFrom adds a variable for each key of ConfigMaps and Secrets. Of two of one name
	// the later one counts, and Env before all of them.
	EnvFrom []EnvFrom `json:"envFrom,omitempty"`
	// PullPolicy is PullIfNotPresent (the default), PullAlways or PullNever. To change it
	// replaces no container.
	PullPolicy PullPolicy `json:"pullPolicy,omitempty"`
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
	// WorkingDir is where the command runs; empty for the image's own. It is made if it is
	// not there.
	WorkingDir string `json:"workingDir,omitempty" template:"path"`
	// Hostname is an RFC 1123 label; empty for the container's id.
	Hostname string `json:"hostname,omitempty"`
	// ShmSize bounds /dev/shm in bytes: 256Mi. Empty for podman's 64 MB.
	ShmSize string `json:"shmSize,omitempty"`
	// Init: a small init process comes first, which reaps what the command leaves behind and
	// forwards signals.
	Init bool `json:"init,omitempty"`
	// SecurityContext says with which rights the container runs.
	SecurityContext *SecurityContext `json:"securityContext,omitempty"`
	// UserNamespace says who of the container the directories of the device belong to.
	UserNamespace *UserNamespace `json:"userNamespace,omitempty"`
	// Ulimits bound what each process may use.
	Ulimits []Ulimit `json:"ulimits,omitempty"`
	// OOMScoreAdj says how soon the kernel kills the container when the device has no memory
	// left, 0 to 1000 for first; nil for podman's default.
	OOMScoreAdj *int `json:"oomScoreAdj,omitempty"`
	// Devices are devices of the host. They need a namespace with privilege "privileged", and
	// agent.yaml of the device has to allow them, as all that follows until HostIPC.
	Devices []Device `json:"devices,omitempty"`
	// CDIDevices are names of the Container Device Interface: nvidia.com/gpu=all.
	CDIDevices []string `json:"cdiDevices,omitempty"`
	// HostServices are udev and dbus.
	HostServices []HostService `json:"hostServices,omitempty"`
	// HostPID: the container sees all processes of the device.
	HostPID bool `json:"hostPID,omitempty"`
	// HostIPC: the container shares the device's memory segments, semaphores and queues.
	HostIPC bool `json:"hostIPC,omitempty"`
	// Log bounds what podman keeps of the output.
	Log Log `json:"log,omitzero"`
	// Labels are seen in podman, beside those of the agent.
	Labels map[string]string `json:"labels,omitempty" template:"text"`
	// Annotations are told to the runtime of containers, which gives them no meaning.
	Annotations map[string]string `json:"annotations,omitempty" template:"text"`
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
// when it starts, how long it may run and how its image is pulled: a container knows
// nothing of them.
func (s *Service) Hash() string {
	content := *s
	content.StartupProbe, content.LivenessProbe, content.ReadinessProbe = nil, nil, nil
	content.DependsOn, content.Schedule, content.TimeoutSeconds = nil, nil, nil
	content.PullPolicy = ""
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
		validateEach(at+".envFrom", s.EnvFrom, EnvFrom.validate),
		checkOneOf(at+".pullPolicy", s.PullPolicy, PullIfNotPresent, PullAlways, PullNever),
		validateEach(at+".ports", s.Ports, Port.validate),
		validateEach(at+".volumes", s.Volumes, Volume.validate),
		s.Resources.validate(at+".resources"),
		s.validateOptions(at),
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
func (s *Service) Signal() syscall.Signal { return signalOf(s.StopSignal) }

// signalOf is the number of a signal by its name, or 0 for another name.
func signalOf(name string) syscall.Signal {
	const first, last = 34, 64 // SIGRTMIN and SIGRTMAX of the C libraries of Linux
	if offset, ok := strings.CutPrefix(name, "SIGRTMIN+"); ok {
		n, err := strconv.ParseUint(offset, 10, 8)
		if err != nil || n > last-first {
			return 0
		}
		return syscall.Signal(first + n)
	}
	return stopSignals[name]
}

// stopSignals are those that programs take as a request to end, by name. The numbers are
// those of Linux, which devices run: package syscall has those of the system that it is
// compiled for.
var stopSignals = map[string]syscall.Signal{
	"SIGHUP": sighup, "SIGINT": 2, "SIGQUIT": 3, "SIGABRT": 6, "SIGKILL": 9, "SIGUSR1": 10, "SIGUSR2": 12, "SIGALRM": 14, "SIGTERM": 15,
	"SIGWINCH": 28, "SIGPWR": 30,
}

// sighup asks programs to read their configuration again.
const sighup syscall.Signal = 1

// validateMounts refuses two things at one place.
func (s *Service) validateMounts(at string) error {
	var found mistakes
	mounted := map[string]bool{}
	mount := func(field, path string) {
		if path != "" && mounted[path] {
			found.add(fieldErrorf(field, "%.80q is mounted twice", path))
		}
		mounted[path] = true
	}
	for i, v := range s.Volumes {
		mount(index(at+".volumes", i)+".mountPath", v.MountPath)
	}
	for i, d := range s.Devices {
		mount(index(at+".devices", i)+".path", d.Target())
	}
	for i, h := range s.HostServices {
		mount(index(at+".hostServices", i), h.Path())
	}
	return found.err()
}
