package hostinstall

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"
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
	recoveryPoint

	Phase phase `json:"phase"`
	// Active: the service ran before.
	Active bool `json:"active"`
	// Program is the SHA-256 of the previous program.
	Program string `json:"program,omitempty"`
	// Ready is the digest of the service's last word that it was ready. Another
	// one means that the service has been in use since.
	Ready string `json:"ready,omitempty"`
	// Files is the manifest's previous list.
	Files map[string][]string `json:"files"`
}

// recoveryPoint says which state a backup is of. It lies beside the backup as
// well, so that neither can be taken for another's.
type recoveryPoint struct {
	// ID is that of the upgrade; empty in what earlier versions wrote.
	ID   string    `json:"id,omitempty"`
	From string    `json:"from"`
	To   string    `json:"to"`
	Time time.Time `json:"time,omitzero"`
	// DataDir is the directory that was backed up; empty when there was none.
	DataDir string `json:"dataDir,omitempty"`
	// State is the digest of what the backup has of it.
	State string `json:"state,omitempty"`
}

// ErrNoPackage: an upgrade of a package needs its file.
var ErrNoPackage = errors.New("a package manager installed this program: name the file of the new package with --package")

// errOtherBackup: what lies in the place of the backup is not the state that
// the upgrade found.
var errOtherBackup = errors.New("the backup is incomplete or of another state, so nothing was restored and what is installed stays")

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
	if err := in.settle(ctx); err != nil {
		return err
	}
	if !in.packaged {
		return fmt.Errorf("%s was installed without a package: run the new program with upgrade: %w", in.Product.Name, ErrRefused)
	}
	if o.Package == "" {
		return ErrNoPackage
	}
	if err := o.refuseOlder(in.packageVersions(ctx, o.Package)); err != nil {
		return err
	}
	in.say("upgrade to %s", filepath.Base(o.Package))
	present, err := in.sum(in.Product.program(in.packaged))
	if err != nil {
		return err
	}
	if !in.hasPackage(present) {
		in.say("there is no way back from this upgrade, but to the data: the package that is installed was not kept")
	}
	if in.DryRun {
		return nil
	}
	// Whoever may write to the file must not have another one kept than was
	// installed: both come from one copy.
	next, err := in.stagePackage(o.Package)
	if err != nil {
		return err
	}
	defer func() { _ = in.Host.Remove(next) }() // the next upgrade replaces it
	change := func(ctx context.Context) error {
		in.manifest.Restart = true
		if err := in.save(); err != nil {
			return err
		}
		return in.Host.Run(ctx, packageInstall(next)...)
	}
	if err := in.upgrade(ctx, o, change, in.restorePackage); err != nil {
		return err
	}
	r, err := in.Host.Open(next)
	if err != nil {
		return fmt.Errorf("keeping the package: %w", err)
	}
	defer r.Close()
	return in.keep(r, in.keptPackage(next))
}

// stagePackage copies a package to where only root can change it.
func (in *Installer) stagePackage(path string) (string, error) {
	next := in.backup.stagedPackage(path)
	if err := in.mkdirAll(in.Product.dir()); err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading the package: %w", err)
	}
	defer f.Close()
	return next, in.Host.Put(next, f, 0o600)
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

// hasPackage reports whether the package that was kept is the one with this
// program.
func (in *Installer) hasPackage(program string) bool {
	kept := in.manifest.PackageProgram
	return in.manifest.Package != "" && (kept == "" || kept == program)
}

// upgrade stops the service, copies it with its data, changes it, and starts it
// again. When that fails back undoes the change.
func (in *Installer) upgrade(ctx context.Context, o Options, change, back func(context.Context) error) error {
	if u := in.manifest.Upgrade; u == nil || u.Phase == phaseBackup {
		if err := in.backUp(ctx, o); err != nil {
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
	if in.packaged && !in.hasPackage(in.manifest.Upgrade.Program) {
		if replaced, sumErr := in.replaced(); replaced || sumErr != nil {
			in.manifest.Upgrade = nil
			return errors.Join(err, sumErr, in.save(), fmt.Errorf("there is no way back to the previous package, which was not kept: install one by hand, with --package; the previous data are in %s", in.Product.dir("data")))
		}
	}
	// Whoever gave up waiting wants the old version, not half of each.
	return errors.Join(err, in.goBack(context.WithoutCancel(ctx), back))
}

// replaced reports whether the program is another than before the upgrade.
func (in *Installer) replaced() (bool, error) {
	sum, err := in.sum(in.Product.program(in.packaged))
	return sum != in.manifest.Upgrade.Program, err
}

// backUp copies all that an upgrade may change.
func (in *Installer) backUp(ctx context.Context, o Options) error {
	u, err := in.newUpgrade(ctx, o)
	if err != nil {
		return err
	}
	in.manifest.Upgrade = u
	if err := in.save(); err != nil {
		return err
	}
	if err := in.backup.checkSpace(u.DataDir); err != nil {
		return err
	}
	if err := in.service.stop(ctx); err != nil {
		return err
	}
	err = in.backup.make(u)
	if err != nil && u.Active {
		return errors.Join(err, in.service.restart(context.WithoutCancel(ctx)))
	}
	if err != nil {
		return err
	}
	u.Phase = phaseChange
	return in.save()
}

// newUpgrade describes what is there before an upgrade.
func (in *Installer) newUpgrade(ctx context.Context, o Options) (*upgrade, error) {
	sum, err := in.sum(in.Product.program(in.packaged))
	if err != nil {
		return nil, err
	}
	u := &upgrade{Phase: phaseBackup, Active: in.service.active(ctx), Program: sum, Files: maps.Clone(in.manifest.Files)}
	if before := in.manifest.Upgrade; before != nil { // its backup was interrupted, which had stopped the service
		u.Active = u.Active || before.Active
	}
	u.recoveryPoint = recoveryPoint{ID: rand.Text(), From: in.manifest.Version, To: in.Version, Time: time.Now().UTC()}
	if dir := cmp.Or(o.DataDir, in.manifest.dataDir(&in.Product)); in.Product.Backup {
		if _, err := in.Host.Lstat(dir); err == nil {
			u.DataDir = dir
		}
	}
	return u, nil
}

// fate is what becomes of an upgrade that is under way when the next run begins.
type fate int

const (
	// fateNew: nothing was changed yet, it begins anew.
	fateNew fate = iota
	// fateOn: it goes on with what is to be installed now, and the backup that it has.
	fateOn
	// fateBack: it was going back, and goes on with that.
	fateBack
	// fateOver: what is installed has been in use since, and stays. The backup is of
	// the past, and is never restored.
	fateOver
)

// since is what happened to a host since the backup of an upgrade was made: after a
// power cut a service starts with whatever is installed.
type since struct {
	// active: the service runs.
	active bool
	// changed: the data are others. The new version changes them before it fails.
	changed bool
	// ready: the service became ready.
	ready bool
	// replaced: the program is another than before the upgrade.
	replaced bool
}

// fate decides. It is pure.
func (u *upgrade) fate(s since) fate {
	switch {
	case u == nil || u.Phase == phaseBackup:
		return fateNew
	case s.active, s.changed && s.ready, s.changed && u.Phase == phaseChange && !s.replaced:
		return fateOver
	case u.Phase == phaseBack:
		return fateBack
	}
	return fateOn
}

// settle decides about an upgrade that was interrupted, and ends it unless it goes
// on.
func (in *Installer) settle(ctx context.Context) error {
	u := in.manifest.Upgrade
	if u == nil || u.Phase == phaseBackup || in.DryRun {
		return nil
	}
	if u.ID == "" && in.Product.Backup { // of an earlier version
		u.DataDir = in.manifest.dataDir(&in.Product)
	}
	happened, err := in.since(ctx, u)
	if err != nil {
		return fmt.Errorf("looking at an interrupted upgrade: %w", err)
	}
	switch u.fate(happened) {
	case fateOver:
		return in.conclude(u, happened)
	case fateBack:
		return in.goBack(ctx, in.wayBack())
	}
	u.To = in.Version
	return in.save()
}

// wayBack is how files come back.
func (in *Installer) wayBack() func(context.Context) error {
	if in.packaged {
		return in.restorePackage
	}
	return in.restoreFiles
}

// since looks at the host. It reads no data while a service may change them.
func (in *Installer) since(ctx context.Context, u *upgrade) (s since, err error) {
	if s.replaced, err = in.replaced(); err != nil {
		return s, err
	}
	if s.active = in.service.active(ctx); s.active || u.DataDir == "" {
		return s, nil
	}
	state, err := in.Host.Digest(u.DataDir, in.backup.rebuilt)
	if err != nil {
		return s, err
	}
	ready, err := in.backup.ready(u)
	s.changed, s.ready = state != u.State, ready != u.Ready
	return s, err
}

// conclude takes what is installed for the end of an upgrade.
func (in *Installer) conclude(u *upgrade, s since) error {
	if in.manifest.Version = u.From; s.replaced {
		in.manifest.Version = u.To
	}
	in.say("the upgrade from version %s to %s was interrupted; what is installed has been in use since, and stays", u.From, u.To)
	if err := in.removeStaging(u); err != nil {
		return err
	}
	in.manifest.Upgrade = nil
	return in.save()
}

// removeStaging removes what a way back that was interrupted left in the data.
func (in *Installer) removeStaging(u *upgrade) error {
	if u.DataDir == "" {
		return nil
	}
	stage := filepath.Join(u.DataDir, staging)
	_, err := in.Host.EmptyTree(u.DataDir, func(path string) bool { return path != stage && !strings.HasPrefix(path, stage+"/") })
	return err
}

// goBack restores the backup and starts what ran before.
func (in *Installer) goBack(ctx context.Context, back func(context.Context) error) error {
	u := in.manifest.Upgrade
	if err := in.backup.check(u); err != nil {
		in.manifest.Upgrade = nil
		return errors.Join(fmt.Errorf("going back to version %s: %w", u.From, err), in.save())
	}
	in.say("go back to version %s", u.From)
	u.Phase = phaseBack
	if err := in.save(); err != nil {
		return err
	}
	err := in.service.stop(ctx)
	if err == nil {
		err = in.noteReady(u)
	}
	if err == nil {
		err = back(ctx)
	}
	if err == nil {
		err = in.backup.restoreData(u)
	}
	if err == nil {
		err = in.service.reload(ctx)
	}
	if err == nil && u.Active {
		err = in.service.restart(ctx)
	}
	if err != nil {
		return fmt.Errorf("going back to version %s: %w: the backup is in %s, run this again", u.From, err, in.Product.dir())
	}
	in.say("version %s is back", u.From)
	in.manifest.Upgrade, in.manifest.Restart = nil, false
	return in.save()
}

// noteReady writes down what the service last said, which is stopped: what it
// says from now on is about what is restored.
func (in *Installer) noteReady(u *upgrade) (err error) {
	if u.DataDir == "" {
		return nil
	}
	if u.Ready, err = in.backup.ready(u); err != nil {
		return err
	}
	return in.save()
}

// restoreFiles puts the previous files in their places, unless somebody edited
// them meanwhile, and removes those that the upgrade added.
func (in *Installer) restoreFiles(context.Context) error {
	u := in.manifest.Upgrade
	for path, sums := range u.Files {
		if err := in.backup.restoreFile(path, sums); err != nil {
			return err
		}
	}
	for path := range maps.Clone(in.manifest.Files) {
		if _, before := u.Files[path]; before {
			continue
		}
		if _, err := in.remove(path); err != nil {
			return err
		}
	}
	in.manifest.Version = u.From
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
