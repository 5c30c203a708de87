package convert

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/score"
)

// devices translates devices of the host.
func (c *container) devices(in *types.ContainerSpec) {
	for i := range in.Devices {
		d := &in.Devices[i]
		if name := d.Source; strings.Contains(name, "=") {
			if c.cdi(name) {
				*d = types.DeviceMapping{Extensions: d.Extensions}
			}
			continue
		}
		if !c.device(d.Source, d.Target) {
			continue // left and reported
		}
		take(&d.Source)
		take(&d.Target)
		if d.Permissions == "rwm" || d.Permissions == "rw" {
			take(&d.Permissions)
		}
	}
	in.Gpus = slices.DeleteFunc(in.Gpus, c.gpu)
}

// device takes a device of the host, unless there is something at its place.
func (c *container) device(path, target string) bool {
	path = filepath.Clean(path)
	d := score.Device{Path: path}
	if target = cleaned(target); target != "" && target != path {
		d.MountPath = target
	}
	trial := append(slices.Clone(c.out.Devices), d)
	if c.refused(func(s *score.Service) { s.Devices, s.Volumes = trial, c.out.Volumes }) {
		return false
	}
	c.out.Devices = trial
	return true
}

// cleaned is a path in its shortest form, or empty.
func cleaned(path string) string {
	if path == "" {
		return ""
	}
	return filepath.Clean(path)
}

func (c *container) cdi(name string) bool {
	if slices.Contains(c.out.CDIDevices, name) {
		return true
	}
	if c.refused(func(s *score.Service) { s.CDIDevices = []string{name} }) {
		return false
	}
	c.out.CDIDevices = append(c.out.CDIDevices, name)
	return true
}

// graphics are the capabilities of which CDI gives all.
var graphics = []string{"gpu", "nvidia", "compute", "utility", "video", "graphics", "display"}

// gpu translates a request of graphics processors into names of the Container Device
// Interface. It reports whether it could.
func (c *container) gpu(r types.DeviceRequest) bool {
	if len(r.Options) > 0 || slices.ContainsFunc(r.Capabilities, func(c string) bool { return !slices.Contains(graphics, c) }) {
		return false
	}
	if r.Driver == "cdi" {
		return len(r.IDs) > 0 && !slices.ContainsFunc(r.IDs, func(id string) bool { return !c.cdi(id) })
	}
	if r.Driver != "" && r.Driver != "nvidia" {
		return false
	}
	ids := r.IDs
	for i := range min(int64(r.Count), 64) {
		ids = append(ids, strconv.FormatInt(i, 10))
	}
	if len(ids) == 0 {
		ids = []string{"all"}
	}
	return !slices.ContainsFunc(ids, func(id string) bool { return !c.cdi("nvidia.com/gpu=" + id) })
}
