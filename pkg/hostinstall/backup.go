package hostinstall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"time"
)

// backup is what an upgrade goes back to: files and data.
type backup struct {
	*ledger

	product *Product
}

// make makes the backup, in the place of an earlier one.
func (b *backup) make(u *upgrade) error {
	if err := b.host.Mkdir(b.product.dir(), 0o700); err != nil {
		return fmt.Errorf("making the backup: %w", err)
	}
	stays := func(path string) bool { return path == b.manifest.Package || path == b.stagedPackage(path) }
	if _, err := b.host.EmptyTree(b.product.dir(), stays); err != nil {
		return fmt.Errorf("removing the backup of an earlier upgrade: %w", err)
	}
	if err := b.host.Mkdir(b.product.dir("files"), 0o700); err != nil {
		return fmt.Errorf("making the backup: %w", err)
	}
	for path := range u.Files {
		if err := b.copyFile(path); err != nil {
			return fmt.Errorf("making the backup: %w", err)
		}
	}
	if err := b.copyData(u); err != nil {
		return err
	}
	point, err := json.MarshalIndent(u.recoveryPoint, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the recovery point: %w", err)
	}
	return b.host.Put(b.pointPath(), bytes.NewReader(append(point, '\n')), 0o600)
}

func (b *backup) copyFile(path string) error {
	f, err := b.host.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = b.host.Put(b.saved(path), f, 0o600)
	return errors.Join(err, f.Close())
}

// copyData copies the data, which nobody may change meanwhile.
func (b *backup) copyData(u *upgrade) (err error) {
	if u.DataDir == "" {
		return nil
	}
	b.say("back up %s to %s", u.DataDir, b.product.dir("data"))
	if err := b.host.CopyTree(u.DataDir, b.product.dir("data"), b.rebuilt); err != nil {
		return err
	}
	if u.State, err = b.host.Digest(b.product.dir("data"), nil); err != nil {
		return err
	}
	now, err := b.host.Digest(u.DataDir, b.rebuilt)
	if err == nil && now != u.State {
		err = fmt.Errorf("the data in %s changed while they were copied: stop what uses them, then run this again: %w", u.DataDir, ErrRefused)
	}
	if err != nil {
		return err
	}
	u.Ready, err = b.ready(u)
	return err
}

// ready is the digest of the service's last word that it was ready, empty
// before the first.
func (b *backup) ready(u *upgrade) (string, error) {
	if _, err := b.host.Lstat(filepath.Join(u.DataDir, b.product.Ready)); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return b.host.Digest(u.DataDir, func(name string) bool { return name != b.product.Ready })
}

func (b *backup) pointPath() string { return b.product.dir("backup.json") }

// saved is where the backup has a file.
func (b *backup) saved(path string) string { return b.product.dir("files", url.PathEscape(path)) }

// rebuilt reports whether a name in the data directory is not in the backup.
func (b *backup) rebuilt(name string) bool {
	return name == staging || slices.Contains(b.product.Rebuilt, name)
}

// checkSpace refuses to begin what would end with a full disk.
func (b *backup) checkSpace(dataDir string) error {
	if dataDir == "" {
		return nil
	}
	size, err := b.size(dataDir, b.rebuilt, maxDepth)
	if err != nil {
		return fmt.Errorf("measuring %s: %w", dataDir, err)
	}
	free, err := b.host.Free(stateDir)
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

// size is that of a directory, but for the names directly below it that skip
// reports.
func (b *backup) size(dir string, skip func(string) bool, depth int) (uint64, error) {
	if depth == 0 {
		return 0, errDeep
	}
	entries, err := b.host.ReadDir(dir)
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
			below, err := b.size(path, nil, depth-1)
			if err != nil {
				return 0, err
			}
			total += below
		} else if info, err := b.host.Lstat(path); err == nil {
			total += uint64(info.Size()) //nolint:gosec // never negative
		}
	}
	return total, nil
}

// check returns an error unless the backup is whole, and of the state that
// this upgrade found. Earlier versions wrote nothing to compare it with.
func (b *backup) check(u *upgrade) error {
	if u.ID == "" {
		return nil
	}
	f, err := b.host.Open(b.pointPath())
	if err != nil {
		return fmt.Errorf("%w: %w", errOtherBackup, err)
	}
	defer f.Close()
	var point recoveryPoint
	if err := json.NewDecoder(f).Decode(&point); err != nil || point.ID != u.ID || point.DataDir != u.DataDir {
		return errOtherBackup
	}
	state, err := b.host.Digest(b.product.dir("data"), nil)
	if err == nil && state != u.State {
		err = errOtherBackup
	}
	return err
}

// restoreData makes the data what they were, but for what is never set back.
func (b *backup) restoreData(u *upgrade) error {
	if _, err := b.host.Lstat(b.product.dir("data")); u.DataDir == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	stays := func(name string) bool { return b.rebuilt(name) || slices.Contains(b.product.Forward, name) }
	if err := b.host.MergeTree(b.product.dir("data"), u.DataDir, b.product.Forward); err != nil {
		return err
	}
	if err := b.host.ReplaceTree(b.product.dir("data"), u.DataDir, stays); err != nil {
		return err
	}
	if !u.Time.IsZero() {
		b.say("what was changed through the API since %s is undone; who was revoked since stays out", u.Time.Format(time.RFC3339))
	}
	return nil
}

// restoreFile puts a file back, unless somebody edited it meanwhile.
func (b *backup) restoreFile(path string, sums []string) error {
	before, err := b.sum(b.saved(path))
	if err != nil || before == "" { // it was missing then
		return err
	}
	present, err := b.sum(path)
	if err != nil {
		return err
	}
	if present != "" && present != before && !b.manifest.ours(path, present) {
		b.say("keep    %s, which was edited", path)
		return nil
	}
	if present != before {
		if err := b.putBack(path); err != nil {
			return err
		}
	}
	b.manifest.Files[path] = sums
	return nil
}

func (b *backup) putBack(path string) error {
	mode := fs.FileMode(0o755)
	if info, err := b.host.Lstat(path); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := b.host.Open(b.saved(path))
	if err != nil {
		return err
	}
	err = b.host.Put(path, f, mode)
	return errors.Join(err, f.Close())
}

// stagedPackage is where a package lies while it is installed.
func (b *backup) stagedPackage(path string) string {
	return b.product.dir("next" + filepath.Ext(path))
}
