package hostinstall

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
)

// stateDir holds manifests, backups and packages to go back to. It is root's
// alone: a backup has the server's keys.
const stateDir = "/var/lib/fleet-install"

// manifest is what was done to a host for one product. It is written before
// what it describes, so it may name what a power cut prevented.
type manifest struct {
	// Version is that of the program that last finished.
	Version string `json:"version"`
	// Files are the SHA-256 of what was written to each path; two while a file is
	// about to be replaced. Any other content is an edit of somebody else's.
	Files map[string][]string `json:"files,omitempty"`
	// Directories were made here. They go when they are empty.
	Directories []string `json:"directories,omitempty"`
	// DataDir belongs to the product with all that is in it.
	DataDir string `json:"dataDir,omitempty"`
	// Package is the file of the package that is installed, for the way back.
	Package string `json:"package,omitempty"`
	// PackageProgram is the SHA-256 of the program that Package installs. A package
	// manager may have installed another one since.
	PackageProgram string `json:"packageProgram,omitempty"`
	// Restart: files have changed since the service was last started.
	Restart bool `json:"restart,omitempty"`
	// Upgrade is one that is under way.
	Upgrade *upgrade `json:"upgrade,omitempty"`
}

// ours reports whether a file has content that was written here.
func (m *manifest) ours(path, sum string) bool { return slices.Contains(m.Files[path], sum) }

// last is the content that was last meant for a path.
func (m *manifest) last(path string) string {
	if sums := m.Files[path]; len(sums) > 0 {
		return sums[len(sums)-1]
	}
	return ""
}

func (in *Installer) manifestPath() string { return filepath.Join(stateDir, in.Product.Name+".json") }

// dir is the product's own part of stateDir.
func (in *Installer) dir(elements ...string) string {
	return filepath.Join(append([]string{stateDir, in.Product.Name}, elements...)...)
}

func (in *Installer) load() error {
	in.manifest = manifest{Files: map[string][]string{}}
	f, err := in.Host.Open(in.manifestPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what was installed: %w", err)
	}
	defer f.Close()
	if err := json.NewDecoder(f).Decode(&in.manifest); err != nil {
		return fmt.Errorf("reading %s: %w: move it away; its files then count as edited", in.manifestPath(), err)
	}
	if in.manifest.Files == nil {
		in.manifest.Files = map[string][]string{}
	}
	return nil
}

func (in *Installer) save() error {
	data, err := json.MarshalIndent(in.manifest, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the manifest: %w", err)
	}
	if err := in.Host.Mkdir(stateDir, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", stateDir, err)
	}
	return in.Host.Put(in.manifestPath(), bytes.NewReader(append(data, '\n')), 0o600)
}

// sum returns the SHA-256 of a file, empty when there is none.
func (in *Installer) sum(path string) (string, error) {
	f, err := in.Host.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close()
	return sumOf(f)
}

func sumOf(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
