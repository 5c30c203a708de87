// Package bind decides which directories of the device a container may mount.
//
// A container's root is the user that runs podman; what it can mount, it can
// read and usually write. So nothing may be mounted unless agent.yaml names a
// root for it, and the agent's own secrets and the runtime directory never.
package bind

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/plan"
)

// ErrRefused is wrapped by every error about a mount that is not allowed.
var ErrRefused = errors.New("bind mount refused")

// Policy says what may be mounted. Its zero value allows nothing.
type Policy struct {
	// Roots are directories below which everything may be mounted.
	Roots []string
	// Forbidden are paths that are never mounted, nor anything below or above
	// them. The runtime directory /run is always forbidden.
	Forbidden []string
}

// runtimeDir holds the sockets of podman, systemd and D-Bus.
const runtimeDir = "/run"

// Resolve returns the workload with the host paths of its bind mounts
// resolved, or an error that wraps ErrRefused and names the first path that is
// not allowed. Podman gets the resolved path, so that a link which is changed
// after the check leads nowhere else.
func (p Policy) Resolve(w *plan.Workload) (*plan.Workload, error) {
	resolved := *w
	resolved.Services = make([]container.Spec, len(w.Services))
	for i, s := range w.Services {
		mounts := make([]container.Mount, len(s.Mounts))
		for j, m := range s.Mounts {
			if m.HostPath != "" {
				path, err := p.allow(m.HostPath)
				if err != nil {
					return nil, fmt.Errorf("service %s: %w", s.Service, err)
				}
				m.HostPath = path
			}
			mounts[j] = m
		}
		s.Mounts = mounts
		resolved.Services[i] = s
	}
	return &resolved, nil
}

// allow returns the real path of a directory that may be mounted.
func (p Policy) allow(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%w: %s does not exist on this device", ErrRefused, path)
	}
	if err != nil {
		return "", fmt.Errorf("%w: resolving the path: %w", ErrRefused, err)
	}
	if !p.underRoot(real) {
		return "", fmt.Errorf("%w: %s is not under a directory that bindRoots in agent.yaml lists", ErrRefused, path)
	}
	for _, f := range append([]string{runtimeDir}, p.Forbidden...) {
		if f := follow(f); within(real, f) || within(f, real) {
			return "", fmt.Errorf("%w: %s would expose %s, which no container may have", ErrRefused, path, f)
		}
	}
	return real, nil
}

func (p Policy) underRoot(real string) bool {
	for _, root := range p.Roots {
		if within(real, follow(root)) {
			return true
		}
	}
	return false
}

// follow resolves the links in a path that may not exist (yet).
func follow(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(follow(parent), filepath.Base(path))
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
