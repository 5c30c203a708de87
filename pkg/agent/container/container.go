package container

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"strings"
	"syscall"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Labels of every container and volume that the agent makes. The agent touches
// nothing that lacks LabelDeployment.
const (
	// LabelDeployment is "<namespace>_<deployment>": names have no underscore.
	LabelDeployment = "fleet.nationtech.io/deployment"
	// LabelService is the name of the service within the Deployment.
	LabelService = "fleet.nationtech.io/service"
	// LabelHash is the hash of the service that the container was made from.
	LabelHash = "fleet.nationtech.io/hash"
	// LabelHealthCheck is the health check of the image, encoded as JSON, on a container
	// whose runtime was told to leave that alone.
	LabelHealthCheck = "fleet.nationtech.io/healthcheck"
	// LabelAdopts is on a volume that stands for another, see ImageVolume: the name
	// of the other.
	LabelAdopts = "fleet.nationtech.io/adopts"
)

// State is what a container does, in podman's words.
type State string

// States that the agent tells apart. It leaves containers in any other state alone until
// they change.
const (
	// StateCreated: made but never started.
	StateCreated State = "created"
	// StateConfigured is podman's word for made, but not yet prepared to run.
	StateConfigured State = "configured"
	// StateInitialized: prepared, not yet started.
	StateInitialized State = "initialized"
	StateRunning     State = "running"
	// StateStopped: ended, not yet cleaned up.
	StateStopped State = "stopped"
	StateExited  State = "exited"
	// StatePaused: somebody froze it by hand, or podman did for a moment and was cut off.
	StatePaused State = "paused"
	// StateStopping and StateRemoving pass by themselves, unless podman died meanwhile.
	StateStopping State = "stopping"
	StateRemoving State = "removing"
)

// Container is one labelled container as it was observed.
type Container struct {
	ID   string
	Name string
	// Ref, Service and Hash come from the labels.
	Ref     wire.DeploymentRef
	Service string
	Hash    string
	Image   string
	// Digest is that of the image; empty when the runtime does not tell.
	Digest string
	// Network is its LabelNetwork.
	Network string
	// Mounts are its bind mounts, Volumes its volumes.
	Mounts, Volumes []Mount
	// Grace is how long it has to end before it is killed.
	Grace time.Duration
	// HealthCheck is that of its image; nil for none.
	HealthCheck *Probe
	// PreStop is done before it is asked to end; nil for nothing.
	PreStop *Hook
	State   State
	// PID is its first process on the device; 0 for none.
	PID int
	// Gone: the runtime believes that it runs, and it has no process.
	Gone bool
	// Unwatched: the process of the runtime is gone that would notice its end, and that
	// may forward its ports.
	Unwatched bool
	// Torn: it does not run, and the runtime cannot read what it keeps of it.
	Torn bool
	// Severed: it runs, and what kept its network (NetworkShared) has ended.
	Severed bool
	// ExitCode is that of the last run; it means nothing before the first end.
	ExitCode int
	// OutOfMemory: the last run ended because the kernel had no memory for it.
	OutOfMemory bool
	// Policy is the runtime's own restart policy. That of a container which this agent
	// made is RestartNever: the agent starts it again.
	Policy Restart
	// PolicyRestarts counts the restarts by that policy since the last start that
	// somebody asked for.
	PolicyRestarts int
	// Started and Finished are zero when that never happened. They are dated by the
	// system's clock, which may have been set in between.
	Created, Started, Finished time.Time
	// What follows is not the runtime's word, but the agent's account, see package runs.

	// Since is when the last run was seen to begin or, when it ended, to end. It may be
	// compared with a time.Now whatever becomes of the system's clock.
	Since time.Time
	// Restarts counts the runs after the first, Ends the ends since the last good run.
	Restarts, Ends int
	// Last is how the last run ended that did.
	Last Exit
	// Health is what its probes found out, if it runs, and HealthSince since when it has
	// been as ready as it is; as Since, it may be compared with a time.Now.
	Health      Health
	HealthSince time.Time
	// Down: the last run ended with the device.
	Down bool
	// Stuck is how long its Oddity has lasted.
	Stuck time.Duration
}

// Oddity is what is odd about the state of a container: it should pass.
type Oddity int

const (
	// Sound: nothing is.
	Sound Oddity = iota
	// Broken: what the runtime says of it and what there is do not agree, for the moment in
	// which a process of the runtime has work left to do.
	Broken
	// Passing: the runtime stops or removes it.
	Passing
	// Paused by somebody, who has to let it go on.
	Paused
)

// Oddity is what is odd about its state.
func (c *Container) Oddity() Oddity {
	switch {
	case c.Gone, c.Torn, c.Unwatched, c.Severed:
		return Broken
	case c.State == StateStopping, c.State == StateRemoving:
		return Passing
	case c.State == StatePaused:
		return Paused
	}
	return Sound
}

// Odd reports whether anything is.
func (c *Container) Odd() bool { return c.Oddity() != Sound }

// Exit is how a run ended.
type Exit struct {
	Code        int  `json:"code,omitempty"`
	OutOfMemory bool `json:"outOfMemory,omitempty"`
	// Output is the last of what it wrote, in one line; empty when that is not known.
	Output string `json:"output,omitempty"`
	// Unwell is why the agent ended it, as Health.Unwell says; empty when the agent did not.
	Unwell string `json:"unwell,omitempty"`
}

// Exit is how the last run ended, as the runtime says.
func (c *Container) Exit() Exit { return Exit{Code: c.ExitCode, OutOfMemory: c.OutOfMemory} }

// Ended reports whether the container ran and does not run any more.
func (c *Container) Ended() bool { return c.State == StateExited || c.State == StateStopped }

// Unstarted reports whether the container was made but never ran.
func (c *Container) Unstarted() bool {
	return c.State == StateCreated || c.State == StateConfigured || c.State == StateInitialized
}

// MayRun reports whether the container runs, or might: it was started, and has not ended.
func (c *Container) MayRun() bool { return !c.Ended() && !c.Unstarted() }

// HasRun reports whether the container was started at any time. Where the power goes in the midst
// of its next start, podman forgets at the boot that it ever ran, but not when that was.
func (c *Container) HasRun() bool { return !c.Unstarted() || !c.Started.IsZero() }

// clockGap is how far the end of a short run may lie before its start: podman
// takes the end from the time of a file, and the start from a clock that it
// reads later.
const clockGap = time.Second

// LooksInterrupted reports whether the last start has no end, as when the device went
// down. A clock that was set back during the run makes any end look so.
func (c *Container) LooksInterrupted() bool {
	return c.Ended() && !c.Started.IsZero() && c.Finished.Before(c.Started.Add(-clockGap))
}

// Interrupted reports whether the container was still running when the device went
// down.
func (c *Container) Interrupted() bool { return c.Down && c.LooksInterrupted() }

// LastEvent is when the container last changed by its own times, so that it
// does not depend on when the agent looked.
func (c *Container) LastEvent() time.Time {
	last := c.Created
	for _, t := range []time.Time{c.Started, c.Finished} {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// Spec is a container to be made.
type Spec struct {
	Ref     wire.DeploymentRef
	Service string
	// Stage is empty for the service's own container.
	Stage Stage
	// Hash names the content that the container is made from.
	Hash  string
	Image string
	// Command replaces the image's entrypoint when it is not empty; Args the
	// image's default arguments.
	Command, Args []string
	Env           map[string]string
	Ports         []Port
	Network       Network
	Mounts        []Mount
	// Restart is up to the agent: the runtime starts nothing again by itself.
	Restart Restart
	// Memory is what the container may use at most, in bytes; 0 for no limit.
	Memory int64
	// Grace is how long the container has to end before it is killed.
	Grace time.Duration
	// StopSignal asks it to end; 0 for the image's own.
	StopSignal syscall.Signal
	Options
	// Probes are the agent's business: the runtime runs none.
	Probes Probes
	// HealthCheck is that of the image; nil for none.
	HealthCheck *Probe
	// Role is what the container is for.
	Role Role
	// DependsOn are the services of the Deployment that have to be there before it starts.
	DependsOn []Dependency
	// Timeout is how long it may run; 0 for ever.
	Timeout time.Duration
	// PreStop is done before it is asked to end; nil for nothing.
	PreStop *Hook
	// Secrets are the contents of the runtime's secrets that the container uses,
	// by the secret's name. SecretEnv names them by environment variable,
	// SecretFiles by path.
	Secrets                map[string][]byte
	SecretEnv, SecretFiles map[string]string
	// SecretRights are the rights of files among SecretFiles, by path. Without, root owns
	// a file that everybody may read.
	SecretRights map[string]Permissions
	// Files are directories of files that the agent writes.
	Files []FileSet
	// Pull says when the image is pulled.
	Pull PullPolicy
}

// PullPolicy says when an image is pulled.
type PullPolicy int

// Values of PullPolicy.
const (
	PullIfNotPresent PullPolicy = iota
	PullAlways
	PullNever
)

// Stage is what a container is for that is not its service's own yet. Its name ends with
// it.
type Stage string

// Values of Stage.
const (
	// StageNext: it takes the place of the service's container once that has ended.
	StageNext Stage = "_next"
	// StageTrial: it has no network and is never started. It shows whether the next one
	// could be.
	StageTrial Stage = "_trial"
	// StageFiles: it has no network and is never started. Files are put into its volumes.
	StageFiles Stage = "_files"
)

// Name is the name of the container: "<namespace>_<deployment>_<service>", and its stage.
func (s *Spec) Name() string { return ObjectName(s.Ref, s.Service) + string(s.Stage) }

// Exclusive reports whether a container cannot be prepared to run beside the previous one of
// its service: both would listen on its ports, or answer to its name.
func (s *Spec) Exclusive() bool { return len(s.Ports) > 0 || s.Network.Object() }

// At returns the spec of the service's container at a stage.
func (s *Spec) At(stage Stage) *Spec {
	staged := *s
	staged.Stage = stage
	return &staged
}

// Labels are the labels of the container.
func (s *Spec) Labels() map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, s.Extra)
	labels[LabelDeployment], labels[LabelService], labels[LabelHash] = LabelValue(s.Ref), s.Service, s.Hash
	if network := s.Network.label(); network != "" {
		labels[LabelNetwork] = network
	}
	if s.HealthCheck != nil {
		check, err := json.Marshal(s.HealthCheck)
		if err != nil {
			panic(fmt.Sprintf("encoding a health check: %v", err)) // strings and numbers always encode
		}
		labels[LabelHealthCheck] = string(check)
	}
	if s.PreStop != nil {
		labels[LabelPreStop] = s.PreStop.label()
	}
	return labels
}

// Port publishes a container port on the device.
type Port struct {
	// HostIP limits the address listened on; empty for all.
	HostIP   string
	Host     uint16
	Inside   uint16
	Protocol Protocol
}

// Protocol is the transport of a Port.
type Protocol string

// Values of Protocol.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// Mount puts a named volume, or a directory, file or device of the device, into a container.
type Mount struct {
	// Volume is the full name of a volume; empty for a bind mount.
	Volume string
	// HostPath is a directory of the device; empty for a volume.
	HostPath string
	Path     string
	ReadOnly bool
	// Device: HostPath is a device or a directory of devices, or a link to one that is
	// followed at each start. Service: it is a service of the device, by that name. Field is
	// the field of the score that asks for either. An observed mount has none of them.
	Device         bool
	Service, Field string
}

// Restart says when an ended container starts again.
type Restart string

// Values of Restart, in podman's words.
const (
	RestartAlways    Restart = "always"
	RestartOnFailure Restart = "on-failure"
	RestartNever     Restart = "no"
)

// ObjectName is the name of a container or volume of a Deployment. Names have
// no underscore, so no two objects collide.
func ObjectName(ref wire.DeploymentRef, name string) string {
	return LabelValue(ref) + "_" + name
}

// ImageVolume is the name of the volume that keeps what an image declares as a volume
// at a path, when the score mounts nothing there.
func ImageVolume(ref wire.DeploymentRef, service, at string) string {
	const digits, longest = 8, 64
	readable := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.TrimPrefix(path.Clean(at), "/"))
	readable = readable[:min(len(readable), longest)]
	return ObjectName(ref, service+"_"+readable+"-"+wire.Sum([]byte(path.Clean(at))).String()[:digits])
}

// Anonymous reports whether the runtime made up the name of a volume, as it does for
// what an image declares.
func Anonymous(volume string) bool {
	const digits = 64
	_, err := hex.DecodeString(volume)
	return len(volume) == digits && err == nil
}

// LabelValue is the value of LabelDeployment.
func LabelValue(ref wire.DeploymentRef) string { return ref.Namespace + "_" + ref.Name }

// ParseLabelValue is the inverse of LabelValue. It reports false for a value
// that the agent did not write.
func ParseLabelValue(value string) (wire.DeploymentRef, bool) {
	namespace, name, found := strings.Cut(value, "_")
	ref := wire.DeploymentRef{Namespace: namespace, Name: name}
	return ref, found && ref.Validate() == nil
}
