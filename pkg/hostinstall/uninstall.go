package hostinstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Removal is what an operator decides about an uninstallation.
type Removal struct {
	// Purge removes data, identity and configuration too.
	Purge bool
	// Volumes removes volumes of containers that hold something; with Purge.
	Volumes bool
}

// Uninstall undoes Install. Data and configuration stay, unless they are purged;
// what somebody edited stays in any case. A package has to be removed by its
// package manager afterwards.
func (in *Installer) Uninstall(ctx context.Context, r Removal) error {
	if err := in.begin(ctx); err != nil {
		return err
	}
	if in.DryRun {
		in.announce(r)
		return nil
	}
	if err := in.end(ctx); err != nil {
		return err
	}
	if err := in.removeFiles(r); err != nil {
		return err
	}
	if r.Purge {
		if err := in.purge(r); err != nil {
			return err
		}
	}
	if in.booted {
		if err := in.systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	return in.forget(r)
}

// announce says what an uninstallation removes.
func (in *Installer) announce(r Removal) {
	for _, path := range slices.Sorted(maps.Keys(in.manifest.Files)) {
		if path != in.Product.Config || r.Purge {
			in.say("remove  %s", path)
		}
	}
	if r.Purge {
		for _, dir := range in.dataDirs() {
			in.say("remove  %s and all that is in it", dir)
		}
	}
}

// end stops and disables the service, and of an agent the containers. A
// package's scripts do that for a package.
func (in *Installer) end(ctx context.Context) error {
	if !in.booted || in.packaged {
		return nil
	}
	if in.state(ctx, "is-enabled") != "unknown" {
		if err := in.systemctl(ctx, "disable", "--now", "--quiet", in.Product.unit()); err != nil {
			return err
		}
	}
	if in.Product.Workload == "" {
		return nil
	}
	uid, err := in.Host.Query(ctx, "id", "-u", in.Product.Workload)
	if err != nil {
		return nil //nolint:nilerr // without the account there are no containers
	}
	if err := in.Host.Run(ctx, "loginctl", "disable-linger", in.Product.Workload); err != nil {
		return err
	}
	// All its containers are below it.
	return in.systemctl(ctx, "stop", "user@"+strings.TrimSpace(uid)+".service")
}

// removeFiles removes what was written, the program last: without it nothing
// could be run again.
func (in *Installer) removeFiles(r Removal) error {
	paths := slices.Sorted(maps.Keys(in.manifest.Files))
	for _, path := range paths {
		if path == in.Product.Program() || path == in.Product.Config && !r.Purge {
			continue
		}
		if _, err := in.remove(path); err != nil {
			return err
		}
	}
	if in.manifest.Package != "" {
		if err := in.Host.Remove(in.manifest.Package); err != nil {
			return err
		}
		in.manifest.Package = ""
	}
	return in.save()
}

func (in *Installer) dataDirs() []string {
	dirs := []string{in.dataDir()}
	if in.Product.Workload != "" {
		dirs = append(dirs, in.workloadHome())
	}
	return dirs
}

func (in *Installer) workloadHome() string { return "/var/lib/" + in.Product.Workload }

// purge removes data, and says what stays all the same.
func (in *Installer) purge(r Removal) error {
	for _, dir := range append(in.dataDirs(), in.dir()) {
		if err := in.purgeDir(dir, r); err != nil {
			return err
		}
	}
	in.manifest.DataDir = ""
	return in.removeEnrolled()
}

func (in *Installer) purgeDir(dir string, r Removal) error {
	if _, err := in.Host.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	mounts, err := in.Host.Mounts()
	if err != nil {
		return err
	}
	in.say("remove  %s", dir)
	kept, err := in.Host.EmptyTree(dir, func(path string) bool {
		return slices.Contains(mounts, path) || !r.Volumes && in.fullVolume(path)
	})
	for _, path := range kept {
		in.say("keep    %s, which is a mount point or holds the data of a container", path)
	}
	if err != nil || len(kept) > 0 || slices.Contains(mounts, dir) {
		return err
	}
	return in.Host.Remove(dir)
}

// fullVolume reports whether a path is a volume that holds something.
func (in *Installer) fullVolume(path string) bool {
	if in.Product.Workload == "" || filepath.Dir(path) != filepath.Join(in.workloadHome(), ".local/share/containers/storage/volumes") {
		return false
	}
	entries, err := in.Host.ReadDir(filepath.Join(path, "_data"))
	return err == nil && len(entries) > 0
}

// removeEnrolled removes a configuration that enrollment wrote and to which
// nobody added anything.
func (in *Installer) removeEnrolled() error {
	if !in.Product.NeedsConfig {
		return nil
	}
	content, err := in.read(in.Product.Config)
	if err != nil || content == nil {
		return err
	}
	var keys map[string]any
	if err := yaml.Unmarshal(content, &keys); err != nil {
		keys = map[string]any{"": nil} // whatever it is, it is somebody's
	}
	for _, key := range []string{"device", "server", "credentials"} {
		delete(keys, key)
	}
	if len(keys) > 0 || strings.Contains(string(content), "#") {
		in.say("keep    %s, which was edited", in.Product.Config)
		return nil
	}
	in.say("remove  %s", in.Product.Config)
	return in.Host.Remove(in.Product.Config)
}

// forget removes the program, the directories and the manifest, which stays
// while something is left that a later purge should know of.
func (in *Installer) forget(r Removal) error {
	if err := in.removeDirectories(); err != nil {
		return err
	}
	if _, ok := in.manifest.Files[in.Product.Program()]; ok {
		if _, err := in.remove(in.Product.Program()); err != nil {
			return err
		}
	}
	if !r.Purge || len(in.manifest.Files) > 0 {
		in.manifest.Version, in.manifest.Restart = "", false
		return in.save()
	}
	if err := in.Host.Remove(in.manifestPath()); err != nil {
		return err
	}
	if entries, err := in.Host.ReadDir(stateDir); err != nil || len(entries) > 0 {
		return nil //nolint:nilerr // the other product's, or already gone
	}
	if err := in.Host.Remove(stateDir); err != nil {
		return fmt.Errorf("removing %s: %w", stateDir, err)
	}
	return nil
}
