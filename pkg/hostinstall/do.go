package hostinstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// doAll carries out a plan, each step of which may be done again after an
// interruption.
func (in *Installer) doAll(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := in.do(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// do carries out a step, and records first what is to be undone.
func (in *Installer) do(ctx context.Context, s step) error {
	switch s := s.(type) {
	case writeFile:
		return in.write(s.planned)
	case removeFile:
		return in.removeStep(s)
	case makeAccounts:
		return in.makeAccounts(ctx)
	case makeDataDir:
		return in.makeDataDir(s.dir)
	case storePackage:
		return in.keepPackage(s.path)
	case recordVersion:
		in.manifest.Version = s.version
		return in.save()
	case reloadUnits:
		return in.service.reload(ctx)
	}
	return in.undo(ctx, s)
}

// undo carries out a step of a removal.
func (in *Installer) undo(ctx context.Context, s step) error {
	switch s := s.(type) {
	case endService:
		return in.service.end(ctx, s.packaged)
	case dropUpgrade:
		in.manifest.Upgrade = nil
		return in.save()
	case endAccounts:
		return in.endAccounts(ctx, s)
	case dropPackage:
		return in.dropPackage()
	case emptyDir:
		return in.emptyDir(s.dir)
	case dropDataDir:
		in.manifest.DataDir = ""
		return nil // forgetProduct follows
	case removeDirs:
		return in.removeDirectories()
	case forgetProduct:
		return in.forgetProduct()
	case forgetVersion:
		in.manifest.Version, in.manifest.Restart = "", false
		return in.save()
	}
	return fmt.Errorf("nobody knows how to %s", s) // a mistake of the program's
}

func (in *Installer) removeStep(s removeFile) error {
	_, err := in.remove(s.path)
	in.manifest.Restart = in.manifest.Restart || s.restart // the next step saves it
	return err
}

func (in *Installer) dropPackage() error {
	if in.manifest.Package != "" {
		if err := in.Host.Remove(in.manifest.Package); err != nil {
			return err
		}
		in.manifest.Package = ""
	}
	return in.save()
}

// emptyDir removes a directory, and says what stays all the same.
func (in *Installer) emptyDir(dir string) error {
	if _, err := in.Host.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	mounts, err := in.Host.Mounts()
	if err != nil {
		return err
	}
	in.say("%s", emptyDir{dir})
	kept, err := in.Host.EmptyTree(dir, func(path string) bool { return slices.Contains(mounts, path) })
	for _, path := range kept {
		in.say("keep    %s, which is a mount point", path)
	}
	if err != nil || len(kept) > 0 || slices.Contains(mounts, dir) {
		return err
	}
	return in.Host.Remove(dir)
}

// forgetProduct removes the manifest, and its directory with that of the last
// product.
func (in *Installer) forgetProduct() error {
	if err := in.Host.Remove(in.path()); err != nil {
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

// endAccounts runs the product's own script, which is gone after an interrupted
// run.
func (in *Installer) endAccounts(ctx context.Context, s endAccounts) error {
	if _, err := in.Host.Lstat(s.script); err != nil {
		return nil //nolint:nilerr // see above
	}
	if !s.purge {
		return in.Host.Script(ctx, in.Out, s.script, "stop")
	}
	volumes := "no"
	if s.volumes {
		volumes = "yes"
	}
	return in.Host.Script(ctx, in.Out, "env", "FLEET_PURGE_VOLUMES="+volumes, s.script, "purge")
}
