package hostinstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
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
	// What is installed later has nothing to do with an upgrade of today.
	in.manifest.Upgrade = nil
	if err := in.save(); err != nil {
		return err
	}
	if err := in.cleanUp(ctx, r); err != nil {
		return err
	}
	if err := in.removeFiles(r); err != nil {
		return err
	}
	if r.Purge {
		if err := in.purge(); err != nil {
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
		in.say("remove  %s and all that is in it", in.dataDir())
	}
}

// end stops the service. A package's scripts do the rest for a package.
func (in *Installer) end(ctx context.Context) error {
	if !in.booted || in.state(ctx, "is-enabled") == "unknown" {
		return nil
	}
	if in.packaged {
		return in.systemctl(ctx, "stop", in.Product.unit())
	}
	return in.systemctl(ctx, "disable", "--now", "--quiet", in.Product.unit())
}

// cleanUp ends what the product's other accounts run, and with a purge removes
// what they have.
func (in *Installer) cleanUp(ctx context.Context, r Removal) error {
	script := in.Product.script("cleanup-user", in.packaged)
	if _, err := in.Host.Lstat(script); in.Product.scripts == "" || err != nil || in.packaged && !r.Purge {
		return nil //nolint:nilerr // it is gone after an interrupted run
	}
	if !r.Purge {
		return in.Host.Script(ctx, in.Out, script, "stop")
	}
	volumes := "no"
	if r.Volumes {
		volumes = "yes"
	}
	return in.Host.Script(ctx, in.Out, "env", "FLEET_PURGE_VOLUMES="+volumes, script, "purge")
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

// purge removes data, and says what stays all the same.
func (in *Installer) purge() error {
	dirs := []string{in.dir()}
	if in.Product.Backup {
		dirs = append(dirs, in.dataDir())
	}
	mounts, err := in.Host.Mounts()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := in.purgeDir(dir, mounts); err != nil {
			return err
		}
	}
	in.manifest.DataDir = ""
	return nil
}

func (in *Installer) purgeDir(dir string, mounts []string) error {
	if _, err := in.Host.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	in.say("remove  %s", dir)
	kept, err := in.Host.EmptyTree(dir, func(path string) bool { return slices.Contains(mounts, path) })
	for _, path := range kept {
		in.say("keep    %s, which is a mount point", path)
	}
	if err != nil || len(kept) > 0 || slices.Contains(mounts, dir) {
		return err
	}
	return in.Host.Remove(dir)
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
	if !r.Purge {
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
