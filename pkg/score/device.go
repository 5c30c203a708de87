package score

import (
	"regexp"
	"strings"
)

// Device is a device of the host that the container may use.
type Device struct {
	// Path is that of the device, or of a directory of devices such as /dev/dri, on the
	// device that the container runs on. A stable one is best: /dev/serial/by-id/….
	Path string `json:"path" template:"device"`
	// MountPath is where the container sees it; Path when it is empty.
	MountPath string `json:"mountPath,omitempty"`
}

// HostService is something of the device that containers can use by its name.
type HostService string

// Values of HostService.
const (
	// HostServiceUdev is /run/udev, read-only: what udev knows of devices.
	HostServiceUdev HostService = "udev"
	// HostServiceDBus is /run/dbus: the system bus.
	HostServiceDBus HostService = "dbus"
)

// Path is where the service is, on the device and in the container.
func (h HostService) Path() string { return "/run/" + string(h) }

// cdiPattern is the grammar of the Container Device Interface: vendor.com/class=name.
var cdiPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?=[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?$`)

func (d Device) validate(at string) error {
	path := checkAbsolute(at+".path", d.Path)
	if path == nil && !strings.HasPrefix(d.Path, "/dev/") {
		path = fieldErrorf(at+".path", "%.80q is not below /dev", d.Path)
	}
	return all(path, d.validateMountPath(at+".mountPath"))
}

func (d Device) validateMountPath(field string) error {
	switch {
	case d.MountPath == "":
		return nil
	case d.MountPath == "/dev" || d.MountPath == "/dev/shm" || d.MountPath == "/dev/pts":
		return fieldErrorf(field, "%s is the container's own", d.MountPath)
	}
	return checkAbsolute(field, d.MountPath)
}

// Target is where the container sees the device.
func (d Device) Target() string {
	if d.MountPath != "" {
		return d.MountPath
	}
	return d.Path
}

func checkCDI(name, at string) error {
	if len(name) > maxSecretName || !cdiPattern.MatchString(name) {
		return fieldErrorf(at, "%.80q is not the name of a CDI device such as nvidia.com/gpu=all", name)
	}
	return nil
}

func checkHostService(name HostService, at string) error {
	if name == "" {
		return fieldErrorf(at, "is empty: use udev or dbus")
	}
	return checkOneOf(at, name, HostServiceUdev, HostServiceDBus)
}
