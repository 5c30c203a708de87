package convert

import (
	"path"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/score"
)

// volumes translates mounts of all kinds.
func (c *container) volumes(in *types.ContainerSpec) {
	for i := range in.Volumes {
		c.volume(&in.Volumes[i], item(i))
	}
	in.Tmpfs = slices.DeleteFunc(in.Tmpfs, c.tmpfs)
	for i := range in.Configs {
		f := (*types.FileReferenceConfig)(&in.Configs[i])
		c.file(f, "configs", i)
	}
	for i := range in.Secrets {
		f := (*types.FileReferenceConfig)(&in.Secrets[i])
		c.file(f, "secrets", i)
	}
}

func (c *container) volume(in *types.ServiceVolumeConfig, at string) {
	source, target, readOnly := in.Source, in.Target, in.ReadOnly
	take(&in.Consistency) // which docker itself ignores
	done := false
	switch in.Type {
	case types.VolumeTypeBind:
		done = c.bind(in, at)
	case types.VolumeTypeVolume:
		name := nameOf(c.project.volumes, "volume "+source, source)
		if source == "" {
			name = nameOf(c.project.volumes, "anonymous "+c.name+target, c.name+target)
		}
		done = c.mount(score.Volume{Name: name, MountPath: target, ReadOnly: readOnly}, "volumes", at)
	case types.VolumeTypeTmpfs:
		dir := &score.EmptyDir{Medium: score.MediumMemory}
		if t := in.Tmpfs; t != nil && t.Size > 0 {
			dir.SizeLimit = quantity(int64(take(&t.Size)))
		}
		done = c.mount(score.Volume{EmptyDir: dir, MountPath: target, ReadOnly: readOnly}, "volumes", at)
	}
	if done {
		if in.Type != types.VolumeTypeTmpfs {
			take(&in.Source)
		}
		in.Type, in.Target, in.ReadOnly = "", "", false
		return
	}
	if in.Type != types.VolumeTypeBind && in.Type != types.VolumeTypeVolume && in.Type != types.VolumeTypeTmpfs {
		c.lost("PodmanV0 has no mounts of this type", "use a volume, a directory of the device, or put the files into the image", "volumes", at)
	}
	*in = types.ServiceVolumeConfig{}
}

// mount adds a mount, if it is one that PodmanV0 has. It reports what it refuses.
func (c *container) mount(v score.Volume, at ...string) bool {
	trial := append(slices.Clone(c.out.Volumes), v)
	if c.refused(func(s *score.Service) {
		s.Volumes, s.Devices, s.HostServices = trial, c.out.Devices, c.out.HostServices
	}) {
		c.lost("fleet does not take this mount: its paths are absolute, in their shortest form, without ':' and ',', and there is one mount at each", "change the path", at...)
		return false
	}
	c.out.Volumes = trial
	if v.Name != "" {
		c.group.mounted[c.out.Name+" "+v.Name] = below(c.at, at...)
	}
	return true
}

// services of the device that have a name, by their directories.
var hostServices = map[string]score.HostService{
	"/run/udev": score.HostServiceUdev, "/var/run/udev": score.HostServiceUdev, "/run/udev/data": score.HostServiceUdev,
	"/run/dbus": score.HostServiceDBus, "/var/run/dbus": score.HostServiceDBus,
	"/run/dbus/system_bus_socket": score.HostServiceDBus, "/var/run/dbus/system_bus_socket": score.HostServiceDBus,
}

// bind translates a directory or a file of the machine.
func (c *container) bind(in *types.ServiceVolumeConfig, at string) bool {
	if b := in.Bind; b != nil {
		take(&b.CreateHostPath)
		if b.Propagation == types.PropagationRPrivate {
			take(&b.Propagation) // podman's default
		}
	}
	source := path.Clean(in.Source)
	if c.local(source) {
		return c.beside(source, in.Target, in.ReadOnly, at)
	}
	if c.files.Here(source) {
		return c.here(source, in.Target, in.ReadOnly, at)
	}
	return c.hostPath(source, in.Target, in.ReadOnly, "volumes", at)
}

// hostPath translates a directory, a file or a device of the machine.
func (c *container) hostPath(source, target string, readOnly bool, at ...string) bool {
	service, named := hostServices[source]
	switch {
	case path.Base(source) == "docker.sock" || path.Base(source) == "podman.sock":
		c.lost("a container gets no access to the runtime of containers", "run what needs it outside of fleet, or without it", at...)
	case named && (target == source || target == string(service.Path()) || "/var"+service.Path() == target):
		c.hostService(service, at...)
		return true
	case named:
		c.lost("services of the device are at their own place in containers, and not at "+target, "mount "+service.Path()+" there, and have the program look for it in "+service.Path(), at...)
	case slices.Contains(ownOfContainers, source):
		c.lost("a container has "+source+" of its own", "name the devices under devices, or give shm_size", at...)
	case strings.HasPrefix(source, "/dev/"):
		if c.device(source, target) {
			return true
		}
		c.lost("PodmanV0 does not take this device", "name one below /dev once", at...)
	case slices.ContainsFunc(ofAgent, func(dir string) bool { return dir == source || strings.HasPrefix(dir, source+"/") }):
		c.lost("no device lets a container mount "+source+", as the agent's own is in it", "name the directories and files in it that the program needs", at...)
	case source == "/" || slices.ContainsFunc(neverMounted, func(dir string) bool { return source == dir || strings.HasPrefix(source, dir+"/") }):
		c.lost("no device lets a container mount "+source, "name what the program needs: a directory of its own, devices or hostServices", at...)
	default:
		return c.mount(score.Volume{HostPath: source, MountPath: target, ReadOnly: readOnly}, at...)
	}
	return false
}

// hostService takes a service of the device. The system's bus believes no number of a user but
// that of the device, and programs tell it theirs.
func (c *container) hostService(service score.HostService, at ...string) {
	if slices.Contains(c.out.HostServices, service) {
		return
	}
	c.out.HostServices = append(c.out.HostServices, service)
	if service == score.HostServiceDBus {
		c.lost("most programs in a rootless container cannot log in to D-Bus as they are: their number of the user is another one on the device",
			"give the service the account's number by userNamespace and runAsUser: see D-Bus in docs/reference/podman-v0.md", at...)
	}
}

var (
	// ownOfContainers are directories that each container has for itself.
	ownOfContainers = []string{"/dev", "/dev/shm", "/dev/pts", "/dev/mqueue"}
	// ofAgent is what no container may see, wherever it is mounted from.
	ofAgent = []string{"/etc/fleet-agent", "/var/lib/fleet-agent", "/var/lib/fleet-workload"}
)

// neverMounted are directories that the agent lets nobody mount, or whose content each account
// of the device may exchange.
var neverMounted = []string{"/proc", "/run", "/var/run", "/tmp", "/var/tmp"}

// tmpfs translates path:options. It reports whether it could.
func (c *container) tmpfs(text string) bool {
	target, options, _ := strings.Cut(text, ":")
	v := score.Volume{MountPath: path.Clean(target), EmptyDir: &score.EmptyDir{Medium: score.MediumMemory}}
	var others []string
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		switch {
		case option == "" || option == "rw" || option == "nosuid" || option == "nodev" || option == "mode=1777" || option == "mode=01777":
			// as podman mounts it
		case option == "ro":
			v.ReadOnly = true
		case name == "size" && bytesOf(value) > 0:
			v.EmptyDir.SizeLimit = quantity(bytesOf(value))
		default:
			others = append(others, option)
		}
	}
	trial := append(slices.Clone(c.out.Volumes), v)
	if c.refused(func(s *score.Service) { s.Volumes = trial }) {
		return false
	}
	c.out.Volumes = trial
	if len(others) > 0 {
		c.lost("a directory in memory has a size, and no "+strings.Join(others, ", "), "leave it out", "tmpfs")
	}
	return true
}
