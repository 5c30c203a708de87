package doctor

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// programDirs are where programs of a distribution and of its administrator lie.
var programDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// needed are what rootless podman cannot do without. Of several names one is
// enough.
var needed = []struct {
	names []string
	// mapper: it needs the right to map ids.
	mapper   bool
	packages map[string]string
}{
	{names: []string{"podman"}, packages: map[string]string{"apt-get": "podman", "dnf": "podman"}},
	{names: []string{"newuidmap"}, mapper: true, packages: map[string]string{"apt-get": "uidmap", "dnf": "shadow-utils"}},
	{names: []string{"newgidmap"}, mapper: true, packages: map[string]string{"apt-get": "uidmap", "dnf": "shadow-utils"}},
	{names: []string{"crun", "runc"}, packages: map[string]string{"apt-get": "crun", "dnf": "crun"}},
}

func (l Local) programs() []Program {
	var list []Program
	for _, n := range needed {
		p := Program{Name: n.names[0], Packages: n.packages}
		for _, name := range n.names {
			if p.Path == "" {
				p.Path = l.find(name)
			}
		}
		p.Privileged = p.Path != "" && (!n.mapper || l.mayMap(p.Path))
		list = append(list, p)
	}
	return list
}

// find returns where a program is, or "".
func (l Local) find(name string) string {
	for _, dir := range programDirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(l.path(path)); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// mayMap reports whether a program is setuid root, as on Debian, or has file
// capabilities, as on Fedora.
func (l Local) mayMap(path string) bool {
	if info, err := os.Stat(l.path(path)); err == nil && info.Mode()&fs.ModeSetuid != 0 {
		return true
	}
	size, err := unix.Getxattr(l.path(path), "security.capability", nil)
	return err == nil && size > 0
}
