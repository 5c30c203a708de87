package driver

import (
	"cmp"
	"fmt"
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
)

// workable compares what is known before a container is made: what cannot work is said in
// words of its own, and what ran goes on. What might work is left to work.
func (d *Driver) workable(spec *container.Spec, image *container.Image, sight *bind.Sight) error {
	if err := publishable(spec); err != nil {
		return err
	}
	if info, err := d.Info(); err == nil {
		if err := cmp.Or(enforceable(spec, &info), connectable(&spec.Network, &info), trusting(image, spec.Image, &info), d.executable(image, spec.Image, &info)); err != nil {
			return err
		}
	}
	hint, err := access(spec, image.User, sight)
	d.refusals.hint(spec, hint)
	return err
}

// enforceable reports a limit that the device cannot keep. Podman's own words for that
// name a file of the kernel, or it ignores the limit in silence.
func enforceable(spec *container.Spec, info *container.Info) error {
	if info.Controllers == nil {
		return nil
	}
	b := &spec.Bounds
	for _, limit := range []struct {
		asked             bool
		field, controller string
	}{
		{spec.Memory > 0, "resources.limits.memory", "memory"},
		{b.Reserved > 0, "resources.requests.memory", "memory"},
		{b.CPU > 0, "resources.limits.cpu", "cpu"},
		{b.PIDs > 0, "resources.limits.pids", "pids"},
		{b.IOWeight > 0, "resources.ioWeight", "io"},
	} {
		if limit.asked && !slices.Contains(info.Controllers, limit.controller) {
			return unenforceable(limit.field, limit.controller)
		}
	}
	return nil
}

func unenforceable(field, controller string) error {
	what := map[string]string{"memory": "memory", "cpu": "processors", "pids": "processes", "io": "what they read and write"}[controller]
	remedy := fmt.Sprintf("switch its %s controller on, see check cgroup-%[1]s of `fleet-agent doctor`, or remove the limit", controller)
	if controller == "io" {
		remedy = "systemd gives accounts no io controller by itself, see PodmanV0's ioWeight in the documentation, or remove it"
	}
	return fmt.Errorf("%s: the kernel of this device does not let containers limit %s: %s", field, what, remedy)
}

// trusting reports an image that would tell the runtime of containers what to do: podman
// before 4.6 makes an image's annotations those of the container, with which it can do
// without the filter of system calls, say.
func trusting(image *container.Image, name string, info *container.Info) error {
	var major, minor int
	if _, err := fmt.Sscanf(info.Version, "%d.%d", &major, &minor); len(image.Annotations) == 0 || err == nil && (major > 4 || major == 4 && minor >= 6) {
		return nil
	}
	return fmt.Errorf("image %q has annotation %s, which podman %s of this device would obey: name an image without it, or use podman 4.6 or later", name, image.Annotations[0], info.Version)
}

// linux is what images of containers are for, in the words of images.
const linux = "linux"

// alike are architectures whose programs processors of others may run, too, and other
// words for them.
var alike = map[string]string{"386": "amd64", "x86_64": "amd64", "arm": "arm64", "aarch64": "arm64"}

// emulators are how the kernel's handlers of programs for other architectures are called.
var emulators = map[string][]string{
	"amd64": {"qemu-x86_64", "FEX-x86_64", "box64", "rosetta"}, "arm64": {"qemu-aarch64"}, "arm": {"qemu-arm"},
	"386": {"qemu-i386", "FEX-x86"}, "riscv64": {"qemu-riscv64"}, "ppc64le": {"qemu-ppc64le"}, "s390x": {"qemu-s390x"},
}

// executable reports an image whose programs the device cannot run. The kernel's words for
// that are "exec format error".
func (d *Driver) executable(image *container.Image, name string, info *container.Info) error {
	if image.OS != "" && image.OS != linux {
		return fmt.Errorf("image %q is for %s, and this device runs linux: name one for linux", name, image.OS)
	}
	arch := image.Arch
	if arch == "" || info.Arch == "" || arch == info.Arch || alike[arch] == info.Arch || d.emulates(arch) {
		return nil
	}
	return fmt.Errorf("image %q is for %s, and this device is %s: name one that was built for linux/%[3]s, or for both", name, arch, info.Arch)
}

// emulates reports whether the kernel runs programs of another architecture, or might.
func (d *Driver) emulates(arch string) bool {
	names, known := emulators[arch]
	if !known {
		return true
	}
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = "/proc/sys/fs/binfmt_misc/" + name
	}
	// The agent's unit has no such directory.
	view, err := d.mounts.policy.View(paths)
	return err != nil || slices.ContainsFunc(paths, func(path string) bool { _, err := trail.Follow(view, path, nil); return err == nil })
}
