package driver

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// maxImageVolumes bounds what an image may declare.
const maxImageVolumes = 64

// withImage returns a spec with the health check of its image, and that mounts a volume of
// the Deployment wherever the image declares one and the score mounts nothing. Podman
// would make one without a name, which nothing keeps.
func (i *instance) withImage(ctx context.Context, spec *container.Spec, image *container.Image) (*container.Spec, error) {
	declared := image.Volumes
	if len(declared) > maxImageVolumes {
		return nil, fmt.Errorf("service %s: image %q declares %d volumes, at most %d are possible", spec.Service, spec.Image, len(declared), maxImageVolumes)
	}
	with := *spec
	with.Mounts, with.HealthCheck = slices.Clone(spec.Mounts), image.HealthCheck
	if spec.Rights.Account != nil {
		// Podman would take the number of the account for that of the user.
		with.Rights.User = cmp.Or(spec.Rights.User, image.User, "0:0")
	}
	for _, at := range declared {
		at = path.Clean("/" + at)
		if at == "/" {
			return nil, fmt.Errorf("service %s: image %q declares a volume at /, which is not possible", spec.Service, spec.Image)
		}
		if mountsAt(&with, at) {
			continue
		}
		name := container.ImageVolume(spec.Ref, spec.Service, at)
		volume, err := i.runtime.EnsureVolume(ctx, spec.Ref, name, i.adoptions.of(name), 0)
		if err != nil {
			return nil, err
		}
		with.Mounts = append(with.Mounts, container.Mount{Volume: volume, Path: at})
	}
	return &with, nil
}

// mountsAt reports whether a container has something of its own at a path.
func mountsAt(s *container.Spec, at string) bool {
	return slices.ContainsFunc(s.Mounts, func(m container.Mount) bool { return m.Path == at }) ||
		slices.ContainsFunc(s.Tmpfs, func(t container.Tmpfs) bool { return t.Path == at })
}

// adopt gives the volumes of a container that have no name to its Deployment, before
// the container is removed that alone knows them: agents up to 0.1 left to podman what
// images declare.
func (d *Driver) adopt(ctx context.Context, c container.Container) error {
	for _, m := range c.Volumes {
		if !container.Anonymous(m.Volume) {
			continue
		}
		name := container.ImageVolume(c.Ref, c.Service, m.Path)
		adopted, err := d.runtime.EnsureVolume(ctx, c.Ref, name, m.Volume, 0)
		if err == nil && adopted == m.Volume {
			err = d.adoptions.note(name, m.Volume)
		}
		if err != nil {
			return fmt.Errorf("keeping the data in %s of container %s: %w", m.Path, c.Name, err)
		}
	}
	return nil
}

// adoptable are the volumes that adopt gives to the Deployment, and those that it
// makes for that.
func adoptable(c container.Container) (names []string) {
	for _, m := range c.Volumes {
		if container.Anonymous(m.Volume) {
			names = append(names, container.ImageVolume(c.Ref, c.Service, m.Path), m.Volume)
		}
	}
	return names
}
