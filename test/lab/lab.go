//go:build linux

package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// ErrUnsupported is wrapped by errors about a host that cannot run machines.
// It is the only error for which a test may be skipped.
var ErrUnsupported = errors.New("this host cannot run lab machines")

// CacheEnv is the environment variable that names the lab's directory.
const CacheEnv = "FLEET_LAB_CACHE"

// Options say where a lab keeps its files and what it tells.
type Options struct {
	// Dir holds roots, images and running machines. Default: $FLEET_LAB_CACHE,
	// else .cache/lab in the repository. It must not be on tmpfs.
	Dir string
	// Progress receives one line for each step that takes long. Default: nothing.
	Progress io.Writer
}

// Lab is a directory of roots and machines. Its methods may be called
// concurrently.
type Lab struct {
	dir      string
	repo     string
	progress io.Writer
	cgroups  string // mount point of the host's cgroup2 hierarchy
}

// Open checks the host, installs the programs that are missing and removes
// what killed runs left. It fails with ErrUnsupported where machines cannot
// run.
func Open(ctx context.Context, o Options) (*Lab, error) {
	cgroups, err := checkHost()
	if err != nil {
		return nil, err
	}
	repo, err := repository()
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: o.Dir, repo: repo, progress: o.Progress, cgroups: cgroups}
	if l.progress == nil {
		l.progress = io.Discard
	}
	if err := l.prepareDir(); err != nil {
		return nil, err
	}
	if err := l.installPrograms(ctx); err != nil {
		return nil, err
	}
	return l, l.Sweep(ctx)
}

func (l *Lab) prepareDir() error {
	if l.dir == "" {
		l.dir = os.Getenv(CacheEnv)
	}
	if l.dir == "" {
		l.dir = filepath.Join(l.repo, ".cache", "lab")
	}
	dir, err := filepath.Abs(l.dir)
	if err != nil {
		return fmt.Errorf("resolving the lab's directory: %w", err)
	}
	// These separate the options of mount and systemd-nspawn.
	if strings.ContainsAny(dir, ":,\\ ") {
		return fmt.Errorf("the lab's directory %q contains one of ':', ',', '\\' or a blank: set %s to another", dir, CacheEnv)
	}
	l.dir = dir
	for _, d := range []string{l.rootsDir(), l.machinesDir(), l.imagesDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("creating the lab's directory: %w", err)
		}
	}
	return nil
}

func (l *Lab) rootsDir() string    { return filepath.Join(l.dir, "roots") }
func (l *Lab) machinesDir() string { return filepath.Join(l.dir, "machines") }
func (l *Lab) imagesDir() string   { return filepath.Join(l.dir, "images") }

// id tells labs of several checkouts on one host apart.
func (l *Lab) id() string {
	sum := sha256.Sum256([]byte(l.dir))
	return hex.EncodeToString(sum[:4])
}

func (l *Lab) printf(format string, args ...any) {
	fmt.Fprintf(l.progress, format+"\n", args...)
}

// repository finds the checkout: the nearest directory above the working
// directory that has a go.mod.
func repository() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod in %s or above: run this in the repository", start)
		}
	}
}
