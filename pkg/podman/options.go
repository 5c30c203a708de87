package podman

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/specgen"
	spec "github.com/opencontainers/runtime-spec/specs-go"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// cpuPeriod is the time in which a limit of processors is kept, in microseconds; microsPerMilli
// is how much of it a thousandth of a processor is.
const cpuPeriod, microsPerMilli = 100_000, 100

// keepGroups is podman's annotation for crun that says that a container has the groups of
// whoever runs podman.
const keepGroups = define.RunOCIKeepOriginalGroups

// addOptions adds what a container has besides.
func addOptions(g *specgen.SpecGenerator, s *container.Spec) {
	yes := true
	if s.WorkingDir != "" {
		g.WorkDir, g.CreateWorkingDir = s.WorkingDir, &yes
	}
	g.Hostname = s.Hostname
	if s.ShmSize > 0 {
		g.ShmSize = &s.ShmSize
	}
	if s.Init {
		g.Init = &yes
	}
	if s.LogSize > 0 {
		g.LogConfiguration.Size = s.LogSize
	}
	for _, t := range s.Tmpfs {
		g.Mounts = append(g.Mounts, tmpfs(t))
	}
	for _, name := range s.CDI {
		g.Devices = append(g.Devices, spec.LinuxDevice{Path: name})
	}
	g.Annotations = s.Annotations
	addRights(g, &s.Rights)
	keepSharedMemory(g, s)
	addBounds(g, s)
}

// sharedMemory is where programs share memory, and sharedMemorySize podman's size of it.
const sharedMemory, sharedMemorySize = "/dev/shm", 64 << 20

// keepSharedMemory keeps /dev/shm writable where the root is not: podman 5 makes both read-only,
// podman 4 and Kubernetes do not.
func keepSharedMemory(g *specgen.SpecGenerator, s *container.Spec) {
	isIt := func(m spec.Mount) bool { return m.Destination == sharedMemory }
	isVolume := func(v *specgen.NamedVolume) bool { return v.Dest == sharedMemory }
	if !s.Rights.ReadOnlyRoot || s.Rights.HostIPC || slices.ContainsFunc(g.Mounts, isIt) || slices.ContainsFunc(g.Volumes, isVolume) {
		return
	}
	m := tmpfs(container.Tmpfs{Path: sharedMemory, Size: cmp.Or(s.ShmSize, sharedMemorySize)})
	m.Options = append(m.Options, "noexec")
	g.Mounts = append(g.Mounts, m)
}

func tmpfs(t container.Tmpfs) spec.Mount {
	options := []string{"nosuid", "nodev", "mode=1777", "rw"}
	if t.ReadOnly {
		options[3] = "ro"
	}
	if t.Size > 0 {
		options = append(options, "size="+strconv.FormatInt(t.Size, 10))
	}
	return spec.Mount{Type: define.TypeTmpfs, Source: define.TypeTmpfs, Destination: t.Path, Options: options}
}

func addRights(g *specgen.SpecGenerator, r *container.Rights) {
	yes := true
	g.User, g.CapAdd, g.CapDrop, g.SelinuxOpts, g.Sysctl = r.User, prefixed(r.CapAdd), prefixed(r.CapDrop), r.SELinux, r.Sysctls
	for _, id := range r.Groups {
		g.Groups = append(g.Groups, strconv.FormatUint(uint64(id), 10))
	}
	if r.KeepGroups {
		annotations := map[string]string{keepGroups: "1"}
		for key, value := range g.Annotations {
			annotations[key] = value
		}
		g.Annotations = annotations
	}
	if r.Account != nil {
		g.UserNS = specgen.Namespace{NSMode: specgen.KeepID, Value: "uid=" + strconv.FormatUint(uint64(r.Account.UID), 10) + ",gid=" + strconv.FormatUint(uint64(r.Account.GID), 10)}
	}
	if r.ReadOnlyRoot {
		g.ReadOnlyFilesystem = &yes
	}
	if r.NoNewPrivileges {
		g.NoNewPrivileges = &yes
	}
	if r.Unconfined {
		g.SeccompProfilePath = "unconfined"
	}
	if r.HostPID {
		g.PidNS = specgen.Namespace{NSMode: specgen.Host}
	}
	if r.HostIPC {
		g.IpcNS = specgen.Namespace{NSMode: specgen.Host}
	}
}

func prefixed(capabilities []string) []string {
	names := slices.Clone(capabilities)
	for i, name := range names {
		if name != "ALL" {
			names[i] = "CAP_" + name
		}
	}
	return names
}

// addBounds adds limits. One of memory is without swap unless that has one of its own: podman
// would add as much once more.
func addBounds(g *specgen.SpecGenerator, s *container.Spec) {
	b := &s.Bounds
	limits := &spec.LinuxResources{}
	if s.Memory > 0 || b.Reserved > 0 {
		limits.Memory = &spec.LinuxMemory{}
	}
	if s.Memory > 0 {
		both := s.Memory + b.Swap
		limits.Memory.Limit, limits.Memory.Swap = &s.Memory, &both
	}
	if b.Reserved > 0 {
		limits.Memory.Reservation = &b.Reserved
	}
	if b.CPU > 0 {
		period, quota := uint64(cpuPeriod), b.CPU*microsPerMilli
		limits.CPU = &spec.LinuxCPU{Period: &period, Quota: &quota}
	}
	if b.PIDs > 0 {
		limits.Pids = &spec.LinuxPids{Limit: b.PIDs}
	}
	if b.IOWeight > 0 {
		limits.BlockIO = &spec.LinuxBlockIO{Weight: &b.IOWeight}
	}
	if limits.Memory != nil || limits.CPU != nil || limits.Pids != nil || limits.BlockIO != nil {
		g.ResourceLimits = limits
	}
	g.OOMScoreAdj = b.OOMScoreAdj
	for _, u := range b.Ulimits {
		g.Rlimits = append(g.Rlimits, spec.POSIXRlimit{Type: u.Name, Soft: uint64(u.Soft), Hard: uint64(u.Hard)}) //nolint:gosec // -1 is RLIM_INFINITY
	}
}
