package hostinstall

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// facts are what is known of a host when a plan is made. Planning reads them and
// nothing else.
type facts struct {
	product  Product
	manifest manifest
	// packaged: a package manager put the program there.
	packaged bool
	// booted: systemd runs.
	booted bool
	// config is the configuration file; nil when there is none.
	config []byte
	// holds says what directories hold that are, or could become, the data directory.
	holds map[string]content
}

// content is what a directory holds, as far as a data directory goes.
type content int

const (
	nothing content = iota // it is empty, or not there
	data                   // a server has worked in it
	strange                // somebody else's
)

// look reads the facts of a plan for a data directory, which may be empty.
func (in *Installer) look(dataDir string) (f facts, err error) {
	f = in.known()
	if f.config, err = in.read(in.Product.Config); err != nil || !f.changesDataDir(dataDir) {
		return f, err
	}
	f.holds = map[string]content{}
	for _, dir := range []string{dataDir, f.dataDir()} {
		if f.holds[dir], err = in.content(dir); err != nil {
			return f, fmt.Errorf("looking into the data directory: %w", err)
		}
	}
	return f, nil
}

// known is what begin found.
func (in *Installer) known() facts {
	return facts{product: in.Product, manifest: in.manifest, packaged: in.packaged, booted: in.service.booted}
}

func (in *Installer) content(dir string) (content, error) {
	_, err := in.Host.Lstat(filepath.Join(dir, "state.db"))
	if err == nil {
		return data, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nothing, err
	}
	entries, err := in.Host.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nothing, err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return strange, nil
		}
	}
	return nothing, nil
}

// read returns the content of a file, nil when there is none.
func (in *Installer) read(path string) ([]byte, error) {
	f, err := in.Host.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close()
	return io.ReadAll(f)
}

// dataDir is where the data are before anything changes. A package's server may
// have run in the default directory before anything was installed here.
func (f *facts) dataDir() string { return f.manifest.dataDir(&f.product) }

// configuredDataDir is the one that the configuration names.
func (f *facts) configuredDataDir() (string, error) {
	var configured struct {
		DataDir string `yaml:"dataDir"`
	}
	if err := yaml.Unmarshal(f.config, &configured); err != nil {
		return "", fmt.Errorf("reading %s: %w", f.product.Config, err)
	}
	return cmp.Or(configured.DataDir, f.dataDir()), nil
}
