package convert

import (
	"maps"
	"slices"
	"strings"
)

// balenaFeatures is before the names of labels by which balena gives a container things of the
// device. They mean nothing elsewhere, so they are taken and named.
const balenaFeatures = "io.balena.features."

// balenaAdvices are by what follows it.
var balenaAdvices = advices{
	"balena-api":     {"a device has no API of balena", "give the program what it asked for in env; expressions such as ${device.labels.site} differ from device to device"},
	"supervisor-api": {"a device has no supervisor of balena", "run what restarts or updates the device outside of fleet; values of the device are expressions such as ${device.name}"},
	"resin-api":      {"a device has no API of balena", "give the program what it asked for in env; expressions such as ${device.labels.site} differ from device to device"},
	"balena-socket":  {"a container gets no access to the runtime of containers", "run what needs it outside of fleet, or without it"},
	"dbus":           {"fleet has no such label", "mount /run/dbus:/run/dbus:ro, and have the program ask unix:path=/run/dbus/system_bus_socket"},
	"kernel-modules": {"a container sees no modules of the device", "load them on the device (/etc/modules-load.d); to see them, mount /lib/modules:/lib/modules:ro"},
	"firmware":       {"a container sees no firmware of the device", "install it on the device; to read it, mount /lib/firmware:/lib/firmware:ro"},
	"journal-logs":   {"a container sees no journal of the device", "mount /var/log/journal and /etc/machine-id read-only"},
	"procfs":         {"no device lets a container mount /proc", "pid: host shows the processes of the device"},
	"sysfs":          {"a container has a /sys of its own", "it shows the device's hardware; for rights to write it run the program outside of fleet"},
	"gpu":            {"fleet has no such label", "name the device under devices (/dev/dri), or gpus"},
	"extra-firmware": {"a container brings the device no firmware", "install it on the device"},
}

// otherBalena is the advice on a feature that the table does not know.
var otherBalena = advice{"it is a feature of balena", "name what the program needs of the device: devices, directories"}

// balena reports labels of balena, and takes them.
func (c *container) balena(labels map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		feature, is := strings.CutPrefix(strings.Replace(name, "io.resin.", "io.balena.", 1), balenaFeatures)
		switch {
		case is && (labels[name] == "0" || labels[name] == "false"): // it is off
		case is:
			found, known := balenaAdvices.find([]string{feature})
			if !known {
				found = otherBalena
			}
			c.lost(found.why, found.instead, "labels", name)
		case strings.HasPrefix(name, "io.balena.") || strings.HasPrefix(name, "io.resin."):
			c.lost("it is for balena, of whose labels none means anything here", "remove it: the device replaces what changed, in the order of dependsOn", "labels", name)
		default:
			continue
		}
		delete(labels, name)
	}
}
