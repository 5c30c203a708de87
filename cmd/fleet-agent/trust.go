package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

// certsDir is the directory, below the one that systemd gives the agent in
// /run, where podman of the workload's account finds authorities: setup-user
// links it there. So the two need nothing of each other's, and podman follows
// when the root is replaced.
const certsDir = "certs.d"

// registryPattern is HOST:PORT. It is the name of a directory.
var registryPattern = regexp.MustCompile(`^[A-Za-z0-9\[][A-Za-z0-9.:\[\]-]*:[0-9]+$`)

// trustRegistry returns a function that makes podman trust the fleet's registry
// of a name, or nil where nobody has linked the directory. The roots are no
// secret.
func trustRegistry(runtimeDir string, roots func() string) func(string) error {
	if runtimeDir == "" {
		return nil
	}
	return func(registry string) error {
		if !registryPattern.MatchString(registry) {
			return fmt.Errorf("%.100q is not the name of a registry", registry)
		}
		dir := filepath.Join(runtimeDir, certsDir, registry)
		if err := roomFor(dir); err != nil {
			return fmt.Errorf("trusting the registry %s: %w", registry, err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("trusting the registry %s: %w", registry, err)
		}
		for _, d := range []string{filepath.Dir(dir), dir} { // whatever the umask is
			if err := os.Chmod(d, 0o755); err != nil {
				return fmt.Errorf("trusting the registry %s: %w", registry, err)
			}
		}
		return atomicfile.Write(filepath.Join(dir, "ca.crt"), []byte(roots()), 0o644)
	}
}

// maxRegistries bounds the names of the fleet's registry. They are chosen by
// gateways, and the directory takes memory of the whole device.
const maxRegistries = 64

// roomFor fails for a further registry when there are too many.
func roomFor(dir string) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) >= maxRegistries {
		err = fmt.Errorf("it has %d names already: restart the agent to forget them", len(entries))
	}
	return err
}
