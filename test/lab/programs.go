//go:build linux

package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Programs are an image of programs as Debian packages them: what people run, without a
// registry.
type Programs struct {
	Suite    string
	Packages []string
	// Before is a command of a shell that runs before the packages are configured, and After
	// one that runs at the end; $1 is the directory of the root.
	Before, After string
}

// withoutDocs leave out what no program reads, and PostgreSQL's compiler, which is half of it.
var withoutDocs = []string{
	"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
	"--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=*/libLLVM*",
}

// Archive returns the path of an archive of the root of the image. The first call builds it,
// in about a minute.
func (p Programs) Archive(ctx context.Context, l *Lab) (string, error) {
	unlock, err := lockDir(l.imagesDir(), unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer unlock.Close()
	sum := sha256.Sum256([]byte(strings.Join(append([]string{p.Suite, p.Before, p.After}, append(p.Packages, withoutDocs...)...), "\n")))
	path := filepath.Join(l.imagesDir(), "programs-"+hex.EncodeToString(sum[:6])+".tar")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	options := append([]string{"--essential-hook=" + p.Before, "--customize-hook=" + p.After}, withoutDocs...)
	err = l.build("an image of "+strings.Join(p.Packages, ", ")+" (about a minute)", path, func(partial string) error {
		return bootstrap(ctx, p.Suite, p.Packages, partial, options...)
	})
	if err != nil {
		return "", fmt.Errorf("building an image of programs: %w", err)
	}
	return path, nil
}

// Import makes the archive of a root an image of WorkloadUser, under each of the references.
func (m *Machine) Import(ctx context.Context, archive string, refs ...string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("opening an image: %w", err)
	}
	defer f.Close()
	load := []string{"podman", "import", "--quiet", "-", refs[0]}
	r, err := m.runAs(ctx, f, WorkloadUser, load)
	if _, err := output(load, r, err); err != nil {
		return fmt.Errorf("importing the image %s: %w", refs[0], err)
	}
	return m.Tag(ctx, refs...)
}

// Tag gives the image of the first reference the others, too.
func (m *Machine) Tag(ctx context.Context, refs ...string) error {
	_, err := m.OutputAs(ctx, WorkloadUser, append([]string{"podman", "tag"}, refs...)...)
	return err
}
