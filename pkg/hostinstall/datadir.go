package hostinstall

import (
	"fmt"
	"path/filepath"
	"strings"
)

// hidden are directories that the unit does not see, or that don't last.
var hidden = []string{"/home", "/root", "/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/usr", "/etc", "/boot"}

// changesDataDir reports whether a data directory is anything but the default one
// of a product that never had another.
func (f *facts) changesDataDir(dir string) bool {
	return dir != "" && (dir != f.product.DataDir || f.manifest.DataDir != "")
}

// refusePath refuses a data directory that cannot work, whatever it holds.
func (f *facts) refusePath(dir string) error {
	if !f.changesDataDir(dir) {
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
	return nil
}

// refuseContent refuses a data directory with which data would be lost.
func (f *facts) refuseContent(dir string) error {
	if !f.changesDataDir(dir) {
		return nil
	}
	before := f.dataDir()
	if before != dir && f.holds[dir] != data && f.holds[before] == data {
		return fmt.Errorf("the data lies in %s: stop the service, move the data to %s, then run this again: %w", before, dir, ErrRefused)
	}
	if f.manifest.DataDir != dir && f.holds[dir] == strange {
		return fmt.Errorf("%s is not empty and has no data of %s: choose an empty directory: %w", dir, f.product.Name, ErrRefused)
	}
	return nil
}

// makeDataDir makes the directory, for the account alone.
func (in *Installer) makeDataDir(dir string) error {
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

func (p *Product) dropInPath() string {
	return "/etc/systemd/system/" + p.unit() + ".d/50-data-dir.conf"
}

// dropIn lets the unit write to a data directory that it does not name.
func (f *facts) dropIn(dir string) *file {
	if dir == "" || dir == f.product.DataDir || !f.booted {
		return nil
	}
	return &file{path: f.product.dropInPath(), mode: 0o644, content: []byte("# Written by " + f.product.Name + " install.\n[Service]\nReadWritePaths=" + dir + "\n")}
}
