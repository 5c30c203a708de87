package hostinstall

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// hidden are directories that the unit does not see, or that don't last.
var hidden = []string{"/home", "/root", "/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/usr", "/etc", "/boot"}

// checkDataDir refuses a data directory that cannot work, or with which data
// would be lost.
func (in *Installer) checkDataDir(dir string) error {
	if dir == "" || dir == in.Product.DataDir && in.manifest.DataDir == "" {
		return nil
	}
	for _, h := range hidden {
		if dir == "/" || dir == h || strings.HasPrefix(dir, h+"/") {
			return fmt.Errorf("%s cannot be the data directory, the service has no access to it: choose one below /var/lib, /srv or /mnt: %w", dir, ErrRefused)
		}
	}
	if strings.ContainsAny(dir, " \t\n\"'\\%$:") {
		return fmt.Errorf("%q cannot be the data directory: use letters, digits, '/', '-', '_' and '.': %w", dir, ErrRefused)
	}
	here, err := in.hasData(dir)
	if err != nil {
		return err
	}
	before := in.manifest.DataDir
	if before == "" { // a package's server may have run there
		before = in.Product.DataDir
	}
	if before != dir && !here {
		if there, err := in.hasData(before); err != nil {
			return err
		} else if there {
			return fmt.Errorf("the data lies in %s: stop the service, move the data to %s, then run this again: %w", before, dir, ErrRefused)
		}
	}
	if here || in.manifest.DataDir == dir {
		return nil
	}
	entries, err := in.Host.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking into the data directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return fmt.Errorf("%s is not empty and has no data of %s: choose an empty directory: %w", dir, in.Product.Name, ErrRefused)
		}
	}
	return nil
}

// hasData reports whether a server has worked in a directory.
func (in *Installer) hasData(dir string) (bool, error) {
	_, err := in.Host.Lstat(filepath.Join(dir, "state.db"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// makeDataDir makes the directory, for the account alone.
func (in *Installer) makeDataDir(dir string) error {
	if dir == "" {
		return nil
	}
	if err := in.mkdirAll(filepath.Dir(dir)); err != nil {
		return err
	}
	in.manifest.DataDir = dir
	if err := in.save(); err != nil {
		return err
	}
	if err := in.Host.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	return in.Host.Own(dir, in.Product.Name, 0o700)
}

func (in *Installer) dropInPath() string {
	return "/etc/systemd/system/" + in.Product.unit() + ".d/50-data-dir.conf"
}

// dropIn lets the unit write to a data directory that it does not name.
func (in *Installer) dropIn(dir string) *file {
	if dir == "" || dir == in.Product.DataDir || !in.booted {
		return nil
	}
	return &file{path: in.dropInPath(), mode: 0o644, content: []byte("# Written by " + in.Product.Name + " install.\n[Service]\nReadWritePaths=" + dir + "\n")}
}
