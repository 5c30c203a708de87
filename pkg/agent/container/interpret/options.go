package interpret

import (
	"slices"
	"strconv"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// optionsOf relies on the validation of the score, as all of this file: numbers fit.
func optionsOf(ref wire.DeploymentRef, s *score.Service) container.Options {
	o := container.Options{
		WorkingDir: s.WorkingDir, Hostname: s.Hostname, ShmSize: score.Bytes(s.ShmSize), Init: s.Init, LogSize: score.Bytes(s.Log.MaxSize),
		Extra: s.Labels, Annotations: s.Annotations, CDI: s.CDIDevices,
		Rights: rightsOf(s), Bounds: boundsOf(s),
	}
	for _, v := range s.Volumes {
		if v.EmptyDir != nil {
			o.Tmpfs = append(o.Tmpfs, container.Tmpfs{Path: v.MountPath, Size: score.Bytes(v.EmptyDir.SizeLimit), ReadOnly: v.ReadOnly})
		}
		if v.SizeLimit != "" {
			if o.VolumeSizes == nil {
				o.VolumeSizes = map[string]int64{}
			}
			o.VolumeSizes[container.ObjectName(ref, v.Name)] = score.Bytes(v.SizeLimit)
		}
	}
	return o
}

func rightsOf(s *score.Service) container.Rights {
	c := s.SecurityContext
	r := container.Rights{User: c.User(), NoNewPrivileges: !c.Escalates(), HostPID: s.HostPID, HostIPC: s.HostIPC}
	if u := s.UserNamespace; u != nil {
		r.Account = &container.IDPair{UID: uint32(u.UID), GID: uint32(u.GroupID())} //nolint:gosec // validated
	}
	// A container has either groups of its own or those of the account.
	r.KeepGroups = len(s.Devices) > 0 && (c == nil || len(c.SupplementalGroups) == 0)
	if c == nil {
		return r
	}
	for _, id := range c.SupplementalGroups {
		r.Groups = append(r.Groups, uint32(id)) //nolint:gosec // validated
	}
	r.ReadOnlyRoot, r.CapAdd, r.CapDrop = c.ReadOnlyRootFilesystem, c.Capabilities.Add, c.Capabilities.Drop
	r.Unconfined = c.SeccompProfile.Type == score.SeccompUnconfined
	o := c.SELinuxOptions
	for _, part := range []struct{ name, value string }{{"user", o.User}, {"role", o.Role}, {"type", o.Type}, {"level", o.Level}} {
		if part.value != "" {
			r.SELinux = append(r.SELinux, part.name+":"+part.value)
		}
	}
	if len(c.Sysctls) > 0 {
		r.Sysctls = make(map[string]string, len(c.Sysctls))
	}
	for _, sysctl := range c.Sysctls {
		r.Sysctls[sysctl.Name] = sysctl.Value
	}
	return r
}

func boundsOf(s *score.Service) container.Bounds {
	b := container.Bounds{
		Swap: score.Bytes(s.Resources.Limits.Swap), Reserved: score.Bytes(s.Resources.Requests.Memory), CPU: s.Resources.Limits.CPUMillis(), OOMScoreAdj: s.OOMScoreAdj,
	}
	if s.Resources.Limits.PIDs != nil {
		b.PIDs = int64(*s.Resources.Limits.PIDs)
	}
	if s.Resources.IOWeight != nil {
		b.IOWeight = uint16(*s.Resources.IOWeight) //nolint:gosec // validated
	}
	for _, u := range s.Ulimits {
		b.Ulimits = append(b.Ulimits, container.Ulimit{Name: u.Name, Soft: int64(u.SoftLimit()), Hard: int64(u.Hard)})
	}
	return b
}

// hostMounts are the devices and services of the device that a service mounts.
func hostMounts(s *score.Service) (mounts []container.Mount) {
	for i, d := range s.Devices {
		mounts = append(mounts, container.Mount{HostPath: d.Path, Path: d.Target(), Device: true, Field: fieldAt("devices", i)})
	}
	for i, h := range s.HostServices {
		mounts = append(mounts, container.Mount{HostPath: h.Path(), Path: h.Path(), ReadOnly: true, Service: string(h), Field: fieldAt("hostServices", i)})
	}
	return slices.Clip(mounts)
}

func fieldAt(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }
