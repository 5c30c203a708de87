// Package release is what the gateway hands out: the packages, the installer
// and the static binaries of one release, verified when they are imported, with
// an apt repository of them, signed by the gateway, and a dnf repository, signed by
// its maker. It is part of the server.
//
// A store is a directory of the data directory:
//
//	current          symbolic link to the release that is served
//	VERSION-RANDOM/  a release: www/ is what is served, install.sh its installer
//	signing-key.asc  the gateway's OpenPGP key
//	bundled          when the images were bundled that were taken over last
//	lock             while a release is imported or signed again
//
// A release is complete before the link names it, and never changes. So the
// command that imports one needs no running server, and a running server serves
// it with the next request. The gateway's signatures expire: a Keeper, in the
// server, makes a copy of the release with new ones, of which all other files
// are hard links, and has the link name that.
package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	currentName     = "current"
	wwwName         = "www"
	installerName   = "install.sh"
	versionName     = "version"
	signingKeyName  = "signing-key.asc"
	packagesKeyName = "packages.asc"
	lockName        = "lock"
	importPrefix    = ".import-"
)

// ErrNone: no release was imported yet.
var ErrNone = errors.New("the gateway holds no release: import one with fleet-server bundle import")

// Store is the directory with the release of a gateway. It need not exist.
type Store struct{ dir string }

// Open returns the store in a server's data directory.
func Open(dataDir string) *Store { return &Store{filepath.Join(dataDir, "release")} }

// current returns the name of the release that is served. It changes with
// every import.
func (s *Store) current() (string, error) {
	name, err := os.Readlink(filepath.Join(s.dir, currentName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNone
	}
	if err != nil {
		return "", fmt.Errorf("looking for the release: %w", err)
	}
	return name, nil
}

// Version returns the version of the release that is served, or ErrNone.
func (s *Store) Version() (string, error) {
	name, err := s.current()
	if err != nil {
		return "", err
	}
	version, _, _ := cutLast(name, "-")
	return version, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
