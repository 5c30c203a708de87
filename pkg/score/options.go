package score

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Ulimit bounds a resource of each process.
type Ulimit struct {
	// Name is that of the resource in small letters: nofile, nproc, memlock, core, rtprio …
	Name string `json:"name"`
	// Soft and Hard are the limits; -1 is none. Soft is Hard when it is nil.
	Soft *int `json:"soft,omitempty"`
	Hard int  `json:"hard"`
}

// UserNamespace says who of the container is the account that runs the containers of the
// device, fleet-workload. By default it is root of the container.
type UserNamespace struct {
	// UID and GID are the container's numbers of the account and its group; GID is UID when
	// it is nil.
	UID int  `json:"uid"`
	GID *int `json:"gid,omitempty"`
}

// Log bounds what podman keeps of the container's output.
type Log struct {
	// MaxSize of the log in bytes, when podman begins it anew: 10Mi. Empty for 10 MB.
	MaxSize string `json:"maxSize,omitempty"`
}

// EmptyDir is a directory that is empty at each start of the container, in memory.
type EmptyDir struct {
	// Medium is Memory: for a directory on the disk there are named volumes.
	Medium StorageMedium `json:"medium"`
	// SizeLimit in bytes: 64Mi. Empty for half of the device's memory.
	SizeLimit string `json:"sizeLimit,omitempty"`
}

// StorageMedium is where an EmptyDir lies.
type StorageMedium string

// MediumMemory is the only StorageMedium.
const MediumMemory StorageMedium = "Memory"

// ulimits are the resources that each process has a limit of.
var ulimits = []string{
	"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

func (u Ulimit) validate(at string) error {
	var name, soft, hard error
	if !slices.Contains(ulimits, u.Name) {
		name = fieldErrorf(at+".name", "%.32q is unknown: use %s", u.Name, list(ulimits))
	}
	if u.Hard < -1 {
		hard = fieldErrorf(at+".hard", "%d is less than -1, which is no limit", u.Hard)
	}
	if s := u.SoftLimit(); s < -1 || u.Hard != -1 && (s == -1 || s > u.Hard) {
		soft = fieldErrorf(at+".soft", "%d is more than hard, or less than -1, which is no limit", s)
	}
	return all(name, soft, hard)
}

// SoftLimit is Soft, or Hard when that is nil.
func (u Ulimit) SoftLimit() int {
	if u.Soft == nil {
		return u.Hard
	}
	return *u.Soft
}

func (s *Service) validateUlimits(at string) error {
	var found mistakes
	given := map[string]bool{}
	for i, u := range s.Ulimits {
		if u.Name != "" && given[u.Name] {
			found.add(fieldErrorf(index(at, i)+".name", "%.32q is given twice", u.Name))
		}
		given[u.Name] = true
	}
	return all(validateEach(at, s.Ulimits, Ulimit.validate), found.err())
}

func (u *UserNamespace) validate(at string) error {
	if u == nil {
		return nil
	}
	return all(checkWithin(at+".uid", &u.UID, 0, maxID), checkWithin(at+".gid", u.GID, 0, maxID))
}

// GroupID is GID, or UID when that is nil.
func (u *UserNamespace) GroupID() int {
	if u.GID == nil {
		return u.UID
	}
	return *u.GID
}

func (e *EmptyDir) validate(at string) error {
	if e == nil {
		return nil
	}
	var medium error
	if e.Medium != MediumMemory {
		medium = fieldErrorf(at+".medium", "%.32q is not known here: use Memory, or a named volume for a directory on the disk", e.Medium)
	}
	return all(medium, checkBytes(at+".sizeLimit", e.SizeLimit, "4Ki"))
}

const (
	// maxLabels bounds labels and annotations in number, maxLabelText a value in bytes.
	maxLabels, maxLabelText = 64, 1024
	qualified               = `[A-Za-z0-9]([A-Za-z0-9._-]{0,125}[A-Za-z0-9])?`
)

var (
	labelKeyPattern      = regexp.MustCompile(`^(` + qualified + `/)?` + qualified + `$`)
	annotationKeyPattern = regexp.MustCompile(`^` + qualified + `/` + qualified + `$`)
)

// reserved are the beginnings of keys that podman and its runtimes act upon, or the agent.
var reserved = []string{
	"fleet.nationtech.io", "io.podman", "io.containers", "io.container", "io.kubernetes", "io.buildah", "run.oci", "org.systemd", "org.opencontainers", "module.wasm", "podman_",
}

func checkMetadata(field string, values map[string]string, pattern *regexp.Regexp, example string) error {
	if len(values) > maxLabels {
		return fieldErrorf(field, "%d items, at most %d are allowed", len(values), maxLabels)
	}
	var found mistakes
	for _, key := range slices.Sorted(maps.Keys(values)) {
		at, lower := join(field, key), strings.ToLower(key)
		switch {
		case !pattern.MatchString(key):
			found.add(fieldErrorf(at, "%.80q is not a key such as %s", key, example))
		case slices.ContainsFunc(reserved, func(prefix string) bool { return strings.HasPrefix(lower, prefix) }):
			found.add(fieldErrorf(at, "podman or the agent acts upon keys of this kind: use another one"))
		case len(values[key]) > maxLabelText || strings.ContainsFunc(values[key], func(r rune) bool { return r < ' ' || r == 0x7f }):
			found.add(fieldErrorf(at, "its value is longer than %d bytes or has a control character", maxLabelText))
		}
	}
	return found.err()
}

// maxOOMScoreAdj is what the kernel takes at most.
const maxOOMScoreAdj = 1000

// validateOptions checks what a container may have besides.
func (s *Service) validateOptions(at string) error {
	var workingDir, hostname error
	if s.WorkingDir != "" && s.WorkingDir != "/" {
		workingDir = checkAbsolute(at+".workingDir", s.WorkingDir)
	}
	if s.Hostname != "" {
		hostname = checkLabel(at+".hostname", s.Hostname)
	}
	return all(
		workingDir, hostname,
		checkBytes(at+".shmSize", s.ShmSize, "4Ki"),
		s.SecurityContext.validate(at+".securityContext"),
		s.UserNamespace.validate(at+".userNamespace"),
		s.validateUlimits(at+".ulimits"),
		checkWithin(at+".oomScoreAdj", s.OOMScoreAdj, 0, maxOOMScoreAdj),
		validateEach(at+".devices", s.Devices, Device.validate),
		validateEach(at+".cdiDevices", s.CDIDevices, checkCDI),
		validateEach(at+".hostServices", s.HostServices, checkHostService),
		checkBytes(at+".log.maxSize", s.Log.MaxSize, "64Ki"),
		checkMetadata(at+".labels", s.Labels, labelKeyPattern, "app or example.com/app"),
		checkMetadata(at+".annotations", s.Annotations, annotationKeyPattern, "example.com/note"),
		s.validateSharing(at),
	)
}

// validateSharing refuses what has no meaning together.
func (s *Service) validateSharing(at string) error {
	var found mistakes
	if s.HostIPC && s.ShmSize != "" {
		found.add(fieldErrorf(at+".shmSize", "with hostIPC the container has the device's /dev/shm"))
	}
	if s.HostPID && s.Init {
		found.add(fieldErrorf(at+".init", "with hostPID the first process is the device's"))
	}
	return found.err()
}
