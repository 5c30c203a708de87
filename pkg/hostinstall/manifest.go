package hostinstall

import (
	"bytes"
	"cmp"
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

// dataDir is where the data of a product are.
func (m *manifest) dataDir(p *Product) string { return cmp.Or(m.DataDir, p.DataDir) }

// ledger records what is done to a host for one product, before it is done: so
// that it can be undone, after a power cut as well.
type ledger struct {
	host Host
	// name is that of the product.
	name string
	out  io.Writer

	manifest manifest
}

func (l *ledger) say(format string, args ...any) { fmt.Fprintf(l.out, format+"\n", args...) }

func (l *ledger) path() string { return filepath.Join(stateDir, l.name+".json") }

func (l *ledger) load() error {
	l.manifest = manifest{Files: map[string][]string{}}
	f, err := l.host.Open(l.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what was installed: %w", err)
	}
	defer f.Close()
	if err := json.NewDecoder(f).Decode(&l.manifest); err != nil {
		return fmt.Errorf("reading %s: %w: move it away; its files then count as edited", l.path(), err)
	}
	if l.manifest.Files == nil {
		l.manifest.Files = map[string][]string{}
	}
	return nil
}

func (l *ledger) save() error {
	data, err := json.MarshalIndent(l.manifest, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the manifest: %w", err)
	}
	if err := l.host.Mkdir(stateDir, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", stateDir, err)
	}
	return l.host.Put(l.path(), bytes.NewReader(append(data, '\n')), 0o600)
}

// sum returns the SHA-256 of a file, empty when there is none.
func (l *ledger) sum(path string) (string, error) {
	f, err := l.host.Open(path)
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
