package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// systemDirs have no files that last, or none that are files.
var systemDirs = []string{"/proc", "/sys", "/dev", "/tmp", "/var/tmp"}

// ownDirs are the agent's own, beside stateDir: whoever writes there is the agent.
var ownDirs = []string{"/etc/fleet-agent", "/var/lib/fleet-agent", "/var/lib/fleet-agent-files", "/var/lib/fleet-workload", "/run/fleet-agent", "/run/fleet-workload", "/run/fleet-interpreters"}

func (c *Config) validateFileRoots() error {
	for i, root := range c.FileRoots {
		if err := checkFileRoot(root, append(slices.Clone(ownDirs), c.StateDir)); err != nil {
			return fmt.Errorf("fileRoots[%d]: %.200q %w", i, root, err)
		}
	}
	return nil
}

func checkFileRoot(root string, own []string) error {
	if !filepath.IsAbs(root) || filepath.Clean(root) != root || strings.ContainsFunc(root, odd) {
		return errors.New("is not an absolute path in its shortest form, without blanks")
	}
	for _, dir := range systemDirs {
		if root == dir || below(root, dir) {
			return fmt.Errorf("is in %s, where no files are kept", dir)
		}
	}
	for _, dir := range own {
		if root == dir || below(root, dir) || below(dir, root) {
			return fmt.Errorf("has something to do with %s, which is the agent's own: list a narrower directory", dir)
		}
	}
	return nil
}

// odd are characters that a unit of systemd would take for something else.
func odd(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"'\%`, r) }

func below(path, dir string) bool { return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") }
