package hostinstall

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
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
	present, err := in.sum(in.program())
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
	next := in.stagedPackage(path)
	if err := in.mkdirAll(in.dir()); err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading the package: %w", err)
	}
	defer f.Close()
	return next, in.Host.Put(next, f, 0o600)
}

func (in *Installer) stagedPackage(path string) string { return in.dir("next" + filepath.Ext(path)) }

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
		if err := in.backup(ctx, o); err != nil {
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
			return errors.Join(err, sumErr, in.save(), fmt.Errorf("there is no way back to the previous package, which was not kept: install one by hand, with --package; the previous data are in %s", in.dir("data")))
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
func (in *Installer) backup(ctx context.Context, o Options) error {
	u, err := in.newUpgrade(ctx, o)
	if err != nil {
		return err
	}
	in.manifest.Upgrade = u
	if err := in.save(); err != nil {
		return err
	}
	if err := in.checkSpace(u.DataDir); err != nil {
		return err
	}
	if err := in.stop(ctx); err != nil {
		return err
	}
	err = in.copyAway(u)
	if err != nil && u.Active {
		return errors.Join(err, in.restart(context.WithoutCancel(ctx)))
	}
	if err != nil {
		return err
	}
	u.Phase = phaseChange
	return in.save()
}

// newUpgrade describes what is there before an upgrade.
func (in *Installer) newUpgrade(ctx context.Context, o Options) (*upgrade, error) {
	sum, err := in.sum(in.program())
	if err != nil {
		return nil, err
	}
	u := &upgrade{Phase: phaseBackup, Active: in.active(ctx), Program: sum, Files: maps.Clone(in.manifest.Files)}
	if before := in.manifest.Upgrade; before != nil { // its backup was interrupted, which had stopped the service
		u.Active = u.Active || before.Active
	}
	u.recoveryPoint = recoveryPoint{ID: rand.Text(), From: in.manifest.Version, To: in.Version, Time: time.Now().UTC()}
	if dir := cmp.Or(o.DataDir, in.dataDir()); in.Product.Backup {
		if _, err := in.Host.Lstat(dir); err == nil {
			u.DataDir = dir
		}
	}
	return u, nil
}

// copyAway makes the backup, in the place of an earlier one.
func (in *Installer) copyAway(u *upgrade) error {
	if err := in.Host.Mkdir(in.dir(), 0o700); err != nil {
		return fmt.Errorf("making the backup: %w", err)
	}
	stays := func(path string) bool { return path == in.manifest.Package || path == in.stagedPackage(path) }
	if _, err := in.Host.EmptyTree(in.dir(), stays); err != nil {
		return fmt.Errorf("removing the backup of an earlier upgrade: %w", err)
	}
	if err := in.Host.Mkdir(in.dir("files"), 0o700); err != nil {
		return fmt.Errorf("making the backup: %w", err)
	}
	for path := range u.Files {
		if err := in.copyFileAway(path); err != nil {
			return fmt.Errorf("making the backup: %w", err)
		}
	}
	if err := in.copyDataAway(u); err != nil {
		return err
	}
	point, err := json.MarshalIndent(u.recoveryPoint, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the recovery point: %w", err)
	}
	return in.Host.Put(in.pointPath(), bytes.NewReader(append(point, '\n')), 0o600)
}

func (in *Installer) copyFileAway(path string) error {
	f, err := in.Host.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = in.Host.Put(in.saved(path), f, 0o600)
	return errors.Join(err, f.Close())
}

// copyDataAway copies the data, which nobody may change meanwhile.
func (in *Installer) copyDataAway(u *upgrade) (err error) {
	if u.DataDir == "" {
		return nil
	}
	in.say("back up %s to %s", u.DataDir, in.dir("data"))
	if err := in.Host.CopyTree(u.DataDir, in.dir("data"), in.rebuilt); err != nil {
		return err
	}
	if u.State, err = in.Host.Digest(in.dir("data"), nil); err != nil {
		return err
	}
	now, err := in.Host.Digest(u.DataDir, in.rebuilt)
	if err == nil && now != u.State {
		err = fmt.Errorf("the data in %s changed while they were copied: stop what uses them, then run this again: %w", u.DataDir, ErrRefused)
	}
	if err != nil {
		return err
	}
	u.Ready, err = in.ready(u)
	return err
}

// ready is the digest of the service's last word that it was ready, empty
// before the first.
func (in *Installer) ready(u *upgrade) (string, error) {
	if _, err := in.Host.Lstat(filepath.Join(u.DataDir, in.Product.Ready)); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return in.Host.Digest(u.DataDir, func(name string) bool { return name != in.Product.Ready })
}

func (in *Installer) pointPath() string { return in.dir("backup.json") }

// saved is where the backup has a file.
func (in *Installer) saved(path string) string { return in.dir("files", url.PathEscape(path)) }

func (in *Installer) dataDir() string {
	if in.manifest.DataDir != "" {
		return in.manifest.DataDir
	}
	return in.Product.DataDir
}

func (in *Installer) rebuilt(name string) bool {
	return name == staging || slices.Contains(in.Product.Rebuilt, name)
}

// checkSpace refuses to begin what would end with a full disk.
func (in *Installer) checkSpace(dataDir string) error {
	if dataDir == "" {
		return nil
	}
	size, err := in.size(dataDir, in.rebuilt)
	if err != nil {
		return fmt.Errorf("measuring %s: %w", dataDir, err)
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
	return in.sizeBelow(dir, skip, maxDepth)
}

func (in *Installer) sizeBelow(dir string, skip func(string) bool, depth int) (uint64, error) {
	if depth == 0 {
		return 0, errDeep
	}
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
			below, err := in.sizeBelow(path, nil, depth-1)
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

// settle decides about an upgrade that was interrupted. What has been in use
// since stays: its backup is of the past, and is never restored.
func (in *Installer) settle(ctx context.Context) error {
	u := in.manifest.Upgrade
	if u == nil || u.Phase == phaseBackup || in.DryRun {
		return nil
	}
	if u.ID == "" && in.Product.Backup { // of an earlier version
		u.DataDir = in.dataDir()
	}
	used, err := in.usedSince(ctx, u)
	switch {
	case err != nil:
		return fmt.Errorf("looking at an interrupted upgrade: %w", err)
	case used:
		return in.conclude(u)
	case u.Phase == phaseBack && in.packaged:
		return in.goBack(ctx, in.restorePackage)
	case u.Phase == phaseBack:
		return in.goBack(ctx, in.restoreFiles)
	}
	u.To = in.Version
	return in.save()
}

// usedSince reports whether the service has been in use since the backup was
// made: after a power cut it starts with whatever is installed.
func (in *Installer) usedSince(ctx context.Context, u *upgrade) (bool, error) {
	if in.active(ctx) {
		return true, nil
	}
	if u.DataDir == "" {
		return false, nil
	}
	state, err := in.Host.Digest(u.DataDir, in.rebuilt)
	if err != nil || state == u.State {
		return false, err
	}
	ready, err := in.ready(u)
	if err != nil || ready != u.Ready {
		return true, err
	}
	// The new version changes the data before it fails. Who else did is the old one.
	replaced, err := in.replaced()
	return u.Phase == phaseChange && !replaced, err
}

// conclude takes what is installed for the end of an upgrade.
func (in *Installer) conclude(u *upgrade) error {
	replaced, err := in.replaced()
	if err != nil {
		return err
	}
	if in.manifest.Version = u.From; replaced {
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
	if err := in.checkBackup(u); err != nil {
		in.manifest.Upgrade = nil
		return errors.Join(fmt.Errorf("going back to version %s: %w", u.From, err), in.save())
	}
	in.say("go back to version %s", u.From)
	u.Phase = phaseBack
	if err := in.save(); err != nil {
		return err
	}
	err := in.stop(ctx)
	if err == nil {
		err = in.noteReady(u)
	}
	if err == nil {
		err = back(ctx)
	}
	if err == nil {
		err = in.restoreData(u)
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

// checkBackup returns an error unless the backup is whole, and of the state that
// this upgrade found. Earlier versions wrote nothing to compare it with.
func (in *Installer) checkBackup(u *upgrade) error {
	if u.ID == "" {
		return nil
	}
	f, err := in.Host.Open(in.pointPath())
	if err != nil {
		return fmt.Errorf("%w: %w", errOtherBackup, err)
	}
	defer f.Close()
	var point recoveryPoint
	if err := json.NewDecoder(f).Decode(&point); err != nil || point.ID != u.ID || point.DataDir != u.DataDir {
		return errOtherBackup
	}
	state, err := in.Host.Digest(in.dir("data"), nil)
	if err == nil && state != u.State {
		err = errOtherBackup
	}
	return err
}

// noteReady writes down what the service last said, which is stopped: what it
// says from now on is about what is restored.
func (in *Installer) noteReady(u *upgrade) (err error) {
	if u.DataDir == "" {
		return nil
	}
	if u.Ready, err = in.ready(u); err != nil {
		return err
	}
	return in.save()
}

// restoreData makes the data what they were, but for what is never set back.
func (in *Installer) restoreData(u *upgrade) error {
	if _, err := in.Host.Lstat(in.dir("data")); u.DataDir == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	stays := func(name string) bool { return in.rebuilt(name) || slices.Contains(in.Product.Forward, name) }
	if err := in.Host.MergeTree(in.dir("data"), u.DataDir, in.Product.Forward); err != nil {
		return err
	}
	if err := in.Host.ReplaceTree(in.dir("data"), u.DataDir, stays); err != nil {
		return err
	}
	if !u.Time.IsZero() {
		in.say("what was changed through the API since %s is undone; who was revoked since stays out", u.Time.Format(time.RFC3339))
	}
	return nil
}

// restoreFiles puts the previous files in their places, unless somebody edited
// them meanwhile, and removes those that the upgrade added.
func (in *Installer) restoreFiles(context.Context) error {
	u := in.manifest.Upgrade
	for path, sums := range u.Files {
		if err := in.restoreFile(path, sums); err != nil {
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

func (in *Installer) restoreFile(path string, sums []string) error {
	before, err := in.sum(in.saved(path))
	if err != nil || before == "" { // it was missing then
		return err
	}
	present, err := in.sum(path)
	if err != nil {
		return err
	}
	if present != "" && present != before && !in.manifest.ours(path, present) {
		in.say("keep    %s, which was edited", path)
		return nil
	}
	if present != before {
		if err := in.putBack(path); err != nil {
			return err
		}
	}
	in.manifest.Files[path] = sums
	return nil
}

func (in *Installer) putBack(path string) error {
	mode := fs.FileMode(0o755)
	if info, err := in.Host.Lstat(path); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := in.Host.Open(in.saved(path))
	if err != nil {
		return err
	}
	err = in.Host.Put(path, f, mode)
	return errors.Join(err, f.Close())
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
