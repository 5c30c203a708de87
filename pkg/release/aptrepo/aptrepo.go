// Package aptrepo writes the metadata of an apt repository. It is part of the
// server and imports no other package of fleet.
package aptrepo

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/blakesmith/ar"
)

const (
	suite     = "stable"
	component = "main"
	// pool holds the packages, beside the directory dists.
	pool = "pool"
	// maxControl bounds a package's control file, in bytes.
	maxControl = 1 << 20
	// maxUnpacked bounds what a package's scripts and its control file unpack to.
	maxUnpacked = 16 << 20
)

// Signer signs the index.
type Signer interface {
	// Clear returns a text with its signature in one document.
	Clear(text []byte) ([]byte, error)
	// Detached returns the armored signature of some data.
	Detached(data []byte) ([]byte, error)
}

// Write writes dists/ for the packages in dir/pool, with an index of a date that
// does not expire. A repository without packages is valid and empty.
func Write(dir string, signer Signer, date time.Time) error {
	packages, err := filepath.Glob(filepath.Join(dir, pool, "*.deb"))
	if err != nil {
		return err
	}
	indexes := map[string]*bytes.Buffer{} // by architecture
	for _, p := range packages {
		arch, stanza, err := describe(p)
		if err != nil {
			return fmt.Errorf("reading %s: %w", filepath.Base(p), err)
		}
		if indexes[arch] == nil {
			indexes[arch] = &bytes.Buffer{}
		}
		indexes[arch].Write(stanza)
	}
	r := &repository{dists: dists(dir)}
	for _, arch := range slices.Sorted(maps.Keys(indexes)) {
		if err := r.addIndex(arch, indexes[arch].Bytes()); err != nil {
			return err
		}
	}
	return r.writeRelease(signer, slices.Sorted(maps.Keys(indexes)), date)
}

func dists(dir string) string { return filepath.Join(dir, "dists", suite) }

// repository is what was written so far.
type repository struct {
	dists string
	// sums are the lines of the release file.
	sums strings.Builder
}

func (r *repository) addIndex(arch string, index []byte) error {
	dir := path.Join(component, "binary-"+arch)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write(index)
	if err := errors.Join(err, z.Close()); err != nil {
		return err
	}
	if err := r.add(dir, "Packages", index); err != nil {
		return err
	}
	return r.add(dir, "Packages.gz", packed.Bytes())
}

// add writes a file under its name and, for clients that fetch it while the
// next release takes over, under its hash.
func (r *repository) add(dir, name string, data []byte) error {
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	fmt.Fprintf(&r.sums, " %s %d %s\n", digest, len(data), path.Join(dir, name))
	for _, p := range []string{filepath.Join(r.dists, dir, name), filepath.Join(r.dists, dir, "by-hash", "SHA256", digest)} {
		if err := write(p, data); err != nil {
			return err
		}
	}
	return nil
}

func (r *repository) writeRelease(signer Signer, archs []string, date time.Time) error {
	text := []byte("Origin: fleet\nLabel: fleet\nSuite: " + suite + "\nCodename: " + suite +
		"\nDate: " + date.UTC().Format(timeLayout) +
		"\nArchitectures: " + strings.Join(archs, " ") + "\nComponents: " + component +
		"\nDescription: fleet, served by its gateway\nAcquire-By-Hash: yes\nSHA256:\n" + r.sums.String())
	return sign(r.dists, signer, text)
}

// sign writes the index and its signatures.
func sign(dists string, signer Signer, text []byte) error {
	inRelease, err := signer.Clear(text)
	if err != nil {
		return err
	}
	signature, err := signer.Detached(text)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"Release": text, "InRelease": inRelease, "Release.gpg": signature} {
		if err := write(filepath.Join(dists, name), data); err != nil {
			return err
		}
	}
	return nil
}

// write writes a file anew: the one that is there may be a hard link to one that
// is served.
func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

var archPattern = regexp.MustCompile(`(?m)^Architecture: *([a-z0-9-]+)$`)

// describe returns the architecture of a package and its entry in an index:
// its own control file, and where the file is.
func describe(file string) (arch string, stanza []byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	control, err := controlOf(f)
	if err != nil {
		return "", nil, err
	}
	m := archPattern.FindSubmatch(control)
	if m == nil {
		return "", nil, errors.New("its control file names no architecture")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", nil, err
	}
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return "", nil, err
	}
	stanza = fmt.Appendf(nil, "%s\nFilename: %s\nSize: %d\nSHA256: %x\n\n", bytes.TrimSpace(control), path.Join(pool, filepath.Base(file)), size, sum.Sum(nil))
	return string(m[1]), stanza, nil
}

// controlOf reads the control file of a package, which is an ar archive with
// control.tar.gz in it. The library panics where a number is none.
func controlOf(r io.Reader) (control []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it is no Debian package, or a damaged one: %v", r)
		}
	}()
	for archive := ar.NewReader(r); ; {
		member, err := archive.Next()
		if err != nil {
			return nil, fmt.Errorf("looking for control.tar.gz: %w", err)
		}
		if strings.TrimSuffix(member.Name, "/") != "control.tar.gz" {
			continue
		}
		z, err := gzip.NewReader(archive)
		if err != nil {
			return nil, err
		}
		return controlIn(tar.NewReader(io.LimitReader(z, maxUnpacked)))
	}
}

func controlIn(archive *tar.Reader) ([]byte, error) {
	for {
		member, err := archive.Next()
		if err != nil {
			return nil, fmt.Errorf("looking for the control file: %w", err)
		}
		if path.Clean(member.Name) != "control" {
			continue
		}
		control, err := io.ReadAll(io.LimitReader(archive, maxControl+1))
		if err == nil && len(control) > maxControl {
			err = fmt.Errorf("the control file is longer than %d bytes", maxControl)
		}
		if err == nil && bytes.Contains(bytes.TrimSpace(control), []byte("\n\n")) {
			err = errors.New("the control file has several paragraphs")
		}
		return control, err
	}
}
