// Package bind decides which directories of the device a container may mount.
//
// A container's root is the user that runs podman; what it can mount, it can
// read and usually write. So nothing may be mounted unless agent.yaml names a
// root for it, and the agent's own secrets and the runtime directory never.
//
// Podman resolves the path of a mount again at each start, and some of the
// starts are its own: no check comes before these. So a path passes only if
// nothing that a container can do changes what is there. Every directory that
// the path leads through must be one that the containers' ids cannot write, and
// no other container may have a part of the path in a writable mount.
//
// Paths are looked at as the account that mounts them does, which is the helper's
// work: the agent's unit hides some, and the account may not enter others. The
// agent judges, and it alone says where its own secrets are.
package bind

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
)

// ErrRefused is wrapped by every error about a mount that is not allowed.
var ErrRefused = errors.New("bind mount refused")

// ErrAbsent is wrapped, beside ErrRefused, for a path that does not exist and
// that no container could make.
var ErrAbsent = errors.New("does not exist on this device")

// ErrUnseen is wrapped, beside ErrRefused, for a path of which a part cannot be
// looked at.
var ErrUnseen = errors.New("cannot be looked at")

// Policy says what may be mounted. Its zero value allows nothing.
type Policy struct {
	// Roots are directories below which everything may be mounted.
	Roots []string
	// Devices are devices, or directories of them, that containers may have.
	Devices []string
	// Services are paths of services of the device that containers may have by name.
	Services []string
	// Forbidden are paths that are never mounted, nor anything below or above
	// them. The runtime directory /run and /proc are always forbidden.
	Forbidden []string
	// Workload returns the ids that containers have on the device, or nil while
	// they are not known. Without them every id but root's may be a container's.
	Workload func() *IDs
	// Groups are those that processes of the account have; nil for nobody knows.
	Groups func() ([]uint32, error)
	// Look looks along paths as the account that mounts them does. nil, or if it
	// fails: the agent looks itself.
	Look func(paths []string) (trail.Trail, error)
	// Hidden are directories of the device that the agent itself does not see.
	Hidden []string
}

// alwaysForbidden: the runtime directory holds the sockets of podman, systemd
// and D-Bus, and /proc leads to it by way of every process of the same user.
var alwaysForbidden = []string{"/run", "/proc"}

// Forbid returns the policy with further forbidden paths.
func (p Policy) Forbid(paths ...string) Policy {
	p.Forbidden = slices.Concat(p.Forbidden, paths)
	return p
}

// Resolve returns the workload with the host paths of its bind mounts
// resolved, or an error that wraps ErrRefused and names the first path that is
// not allowed.
func (p Policy) Resolve(w *plan.Workload) (*plan.Workload, error) {
	resolved := *w
	resolved.Services = make([]container.Spec, len(w.Services))
	var all []container.Mount
	for _, s := range w.Services {
		all = append(all, s.Mounts...)
	}
	sight := p.Sight(all)
	for i, s := range w.Services {
		mounts, err := sight.resolve(s.Mounts)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", s.Service, err)
		}
		s.Mounts = mounts
		resolved.Services[i] = s
	}
	return &resolved, nested(&resolved)
}

// nested refuses a workload of which one container could replace what another
// mounts.
func nested(w *plan.Workload) error {
	for _, inner := range w.Services {
		for _, outer := range w.Services {
			if err := Inside(inner.Mounts, outer.Mounts); err != nil {
				return fmt.Errorf("service %s: %w of service %s", inner.Service, err, outer.Service)
			}
		}
	}
	return nil
}

// Inside returns an error that wraps ErrRefused for the first mount whose host
// path lies inside a writable one of others: whoever has that could put a link
// in its place. Host paths have no links.
func Inside(mounts, others []container.Mount) error {
	for _, m := range mounts {
		for _, o := range others {
			if m.HostPath != "" && o.HostPath != "" && !o.ReadOnly && m.HostPath != o.HostPath && within(m.HostPath, o.HostPath) {
				return fmt.Errorf("%w: %s lies inside of %s, a writable mount", ErrRefused, m.HostPath, o.HostPath)
			}
		}
	}
	return nil
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
