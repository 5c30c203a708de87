package hostinstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// phase is how far an upgrade has come.
type phase string

const (
	// phaseBackup: the service stops and is copied. Nothing has changed yet.
	phaseBackup phase = "backup"
	// phaseChange: the backup is complete, what it holds is about to be replaced.
	phaseChange phase = "change"
	// phaseBack: the new version is no good, the backup is put back.
	phaseBack phase = "back"
)

// upgrade is one that is under way.
type upgrade struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Phase phase  `json:"phase"`
	// Active: the service ran before.
	Active bool `json:"active"`
	// Program is the SHA-256 of the program of before.
	Program string `json:"program,omitempty"`
	// Files is the manifest's list of before.
	Files map[string][]string `json:"files"`
}

// ErrNoPackage: an upgrade of a package needs its file.
var ErrNoPackage = errors.New("a package manager installed this program: name the file of the new package with --package")

// Upgrade is Install where something is installed already.
func (in *Installer) Upgrade(ctx context.Context, o Options) error {
	if err := in.begin(ctx); err != nil {
		return err
	}
	if in.packaged {
		return ErrNoPackage
	}
	if _, ok := in.manifest.Files[in.Product.Program()]; !ok {
		return fmt.Errorf("%s is not installed: run install instead of upgrade: %w", in.Product.Name, ErrRefused)
	}
	return in.Install(ctx, o)
}

// UpgradePackage installs the package in o.Package over the one that is there,
// and goes back to that if the service is not ready afterwards.
func (in *Installer) UpgradePackage(ctx context.Context, o Options) error {
	if err := in.begin(ctx); err != nil {
		return err
	}
	if err := in.resume(ctx); err != nil {
		return err
	}
	if !in.packaged {
		return fmt.Errorf("%s was installed without a package: run the new program with upgrade: %w", in.Product.Name, ErrRefused)
	}
	if o.Package == "" {
		return ErrNoPackage
	}
	in.say("upgrade to %s", filepath.Base(o.Package))
	if in.manifest.Package == "" {
		in.say("there is no way back from this upgrade, but to the data: the package that is installed was not kept")
	}
	if in.DryRun {
		return nil
	}
	change := func(ctx context.Context) error {
		in.manifest.Restart = true
		if err := in.save(); err != nil {
			return err
		}
		return in.Host.Run(ctx, packageInstall(o.Package)...)
	}
	if err := in.upgrade(ctx, o, change, in.restorePackage); err != nil {
		return err
	}
	return in.keepPackage(o.Package)
}

func packageInstall(path string) []string {
	if strings.HasSuffix(path, ".rpm") {
		return []string{"dnf", "--assumeyes", "--quiet", "install", path}
	}
	return []string{
		// Without --reinstall apt is content with what a killed dpkg left half installed.
		"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "-qq", "--allow-downgrades", "--reinstall",
		"-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold", path,
	}
}

// upgrade stops the service, copies it with its data, changes it, and starts it
// again. When that fails back undoes the change.
func (in *Installer) upgrade(ctx context.Context, o Options, change, back func(context.Context) error) error {
	if u := in.manifest.Upgrade; u == nil || u.Phase == phaseBackup {
		if err := in.backup(ctx); err != nil {
			return err
		}
	}
	err := change(ctx)
	if err == nil {
		err = in.start(ctx, o)
	}
	if err == nil {
		in.manifest.Upgrade = nil
		return in.save()
	}
	if in.packaged && in.manifest.Package == "" {
		if replaced, sumErr := in.replaced(); replaced || sumErr != nil {
			in.manifest.Upgrade = nil
			return errors.Join(err, sumErr, in.save(), fmt.Errorf("there is no way back to the package of before, which was not kept: install one by hand, with --package; the data of before is in %s", in.dir("data")))
		}
	}
	// Whoever gave up waiting wants the old version, not half of each.
	return errors.Join(err, in.goBack(context.WithoutCancel(ctx), back))
}

// replaced reports whether the program is another than before the upgrade.
func (in *Installer) replaced() (bool, error) {
	sum, err := in.sum(in.program())
	return sum != in.manifest.Upgrade.Program, err
}

// backup copies all that an upgrade may change.
func (in *Installer) backup(ctx context.Context) error {
	u := in.manifest.Upgrade
	if u == nil {
		sum, err := in.sum(in.program())
		if err != nil {
			return err
		}
		u = &upgrade{From: in.manifest.Version, Active: in.active(ctx), Program: sum, Files: maps.Clone(in.manifest.Files)}
	}
	u.To, u.Phase = in.Version, phaseBackup
	in.manifest.Upgrade = u
	if err := in.save(); err != nil {
		return err
	}
	if err := in.checkSpace(); err != nil {
		return err
	}
	if err := in.stop(ctx); err != nil {
		return err
	}
	if err := in.copyAway(u); err != nil {
		return err
	}
	u.Phase = phaseChange
	return in.save()
}

func (in *Installer) copyAway(u *upgrade) error {
	if err := errors.Join(in.Host.Mkdir(in.dir(), 0o700), in.Host.Mkdir(in.dir("files"), 0o700)); err != nil {
		return fmt.Errorf("making the backup: %w", err)
	}
	for path := range u.Files {
		f, err := in.Host.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("making the backup: %w", err)
		}
		err = in.Host.Put(in.saved(path), f, 0o600)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("making the backup: %w", err)
		}
	}
	if !in.hasBackup() {
		return nil
	}
	in.say("back up %s to %s", in.dataDir(), in.dir("data"))
	return in.Host.CopyTree(in.dataDir(), in.dir("data"), in.rebuilt)
}

// saved is where the backup has a file.
func (in *Installer) saved(path string) string { return in.dir("files", url.PathEscape(path)) }

func (in *Installer) dataDir() string {
	if in.manifest.DataDir != "" {
		return in.manifest.DataDir
	}
	return in.Product.DataDir
}

func (in *Installer) hasBackup() bool {
	if !in.Product.Backup {
		return false
	}
	_, err := in.Host.Lstat(in.dataDir())
	return err == nil
}

func (in *Installer) rebuilt(name string) bool {
	return name == staging || slices.Contains(in.Product.Rebuilt, name)
}

// checkSpace refuses to begin what would end with a full disk.
func (in *Installer) checkSpace() error {
	if !in.hasBackup() {
		return nil
	}
	size, err := in.size(in.dataDir(), in.rebuilt)
	if err != nil {
		return fmt.Errorf("measuring %s: %w", in.dataDir(), err)
	}
	free, err := in.Host.Free(stateDir)
	if err != nil {
		return err
	}
	// The programs, and some air.
	const programs = 300 << 20
	if free < size+programs {
		return fmt.Errorf("the backup needs %d MiB in %s, where %d MiB are free: %w", (size+programs)>>20, stateDir, free>>20, ErrRefused)
	}
	return nil
}

func (in *Installer) size(dir string, skip func(string) bool) (uint64, error) {
	entries, err := in.Host.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var total uint64
	for _, e := range entries {
		if skip != nil && skip(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			below, err := in.size(path, nil)
			if err != nil {
				return 0, err
			}
			total += below
		} else if info, err := in.Host.Lstat(path); err == nil {
			total += uint64(info.Size()) //nolint:gosec // never negative
		}
	}
	return total, nil
}

// resume finishes what an interruption left.
func (in *Installer) resume(ctx context.Context) error {
	u := in.manifest.Upgrade
	if u == nil || u.Phase != phaseBack || in.DryRun {
		return nil
	}
	back := in.restoreFiles
	if in.packaged {
		back = in.restorePackage
	}
	return in.goBack(ctx, back)
}

// goBack restores the backup and starts what ran before.
func (in *Installer) goBack(ctx context.Context, back func(context.Context) error) error {
	u := in.manifest.Upgrade
	in.say("go back to version %s", u.From)
	u.Phase = phaseBack
	if err := in.save(); err != nil {
		return err
	}
	err := in.stop(ctx)
	if err == nil {
		err = back(ctx)
	}
	if _, noData := in.Host.Lstat(in.dir("data")); err == nil && noData == nil && in.Product.Backup {
		err = in.Host.ReplaceTree(in.dir("data"), in.dataDir(), in.rebuilt)
	}
	if err == nil && in.booted {
		err = in.systemctl(ctx, "daemon-reload")
	}
	if err == nil && u.Active {
		err = in.restart(ctx)
	}
	if err != nil {
		return fmt.Errorf("going back to version %s: %w: the backup is in %s, run this again", u.From, err, in.dir())
	}
	in.say("version %s is back", u.From)
	in.manifest.Upgrade, in.manifest.Restart = nil, false
	return in.save()
}

// restoreFiles puts the files of before in their places.
func (in *Installer) restoreFiles(context.Context) error {
	for path, sums := range in.manifest.Upgrade.Files {
		f, err := in.Host.Open(in.saved(path))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was missing then
		}
		if err != nil {
			return err
		}
		info, err := in.Host.Lstat(path)
		mode := fs.FileMode(0o755)
		if err == nil {
			mode = info.Mode().Perm()
		}
		err = in.Host.Put(path, f, mode)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		in.manifest.Files[path] = sums
	}
	in.manifest.Version = in.manifest.Upgrade.From
	return in.save()
}

// restorePackage installs the package of before, unless it was never replaced,
// and the files beside it.
func (in *Installer) restorePackage(ctx context.Context) error {
	replaced, err := in.replaced()
	if err != nil {
		return err
	}
	if replaced {
		if err := in.reinstall(ctx, in.manifest.Package); err != nil {
			return err
		}
	}
	return in.restoreFiles(ctx)
}

// reinstall installs a package that was kept, without a repository: what it
// depends on is there. apt waits for whoever else installs something; dpkg does
// not, but minds no other package that is broken.
func (in *Installer) reinstall(ctx context.Context, path string) error {
	if strings.HasSuffix(path, ".rpm") {
		return in.Host.Run(ctx, "rpm", "--upgrade", "--oldpackage", "--replacepkgs", path)
	}
	err := in.Host.Run(ctx, packageInstall(path)...)
	if err != nil && ctx.Err() == nil {
		err = in.Host.Run(ctx, "env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-confdef", "--force-confold", "--install", path)
	}
	return err
}
