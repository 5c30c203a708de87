// Package rpmrepo writes the metadata of a dnf repository. It is part of the
// server and imports no other package of fleet.
package rpmrepo

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sassoftware/go-rpmutils"
)

// Signer signs the index.
type Signer interface {
	// Detached returns the armored signature of some data.
	Detached(data []byte) ([]byte, error)
}

const (
	namespaceCommon    = "http://linux.duke.edu/metadata/common"
	namespaceFilelists = "http://linux.duke.edu/metadata/filelists"
	namespaceRPM       = "http://linux.duke.edu/metadata/rpm"
	namespaceRepo      = "http://linux.duke.edu/metadata/repo"
)

// Write writes repodata/ for the packages in dir.
func Write(dir string, signer Signer, now time.Time) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.rpm"))
	if err != nil {
		return err
	}
	primary := primaryIndex{Namespace: namespaceCommon, RPM: namespaceRPM, Count: len(files)}
	lists := filelistsIndex{Namespace: namespaceFilelists, Count: len(files)}
	for _, f := range files {
		p, list, err := describe(f)
		if err != nil {
			return fmt.Errorf("reading %s: %w", filepath.Base(f), err)
		}
		primary.Packages = append(primary.Packages, p)
		lists.Packages = append(lists.Packages, list)
	}
	repodata := filepath.Join(dir, "repodata")
	if err := os.MkdirAll(repodata, 0o755); err != nil {
		return err
	}
	repo := repomd{Namespace: namespaceRepo, Revision: strconv.FormatInt(now.Unix(), 10)}
	for _, index := range []struct {
		kind    string
		content any
	}{{"primary", primary}, {"filelists", lists}} {
		entry, err := writeIndex(repodata, index.kind, index.content, now)
		if err != nil {
			return fmt.Errorf("writing the index %s: %w", index.kind, err)
		}
		repo.Data = append(repo.Data, entry)
	}
	return writeRepo(repodata, repo, signer)
}

func writeRepo(repodata string, repo repomd, signer Signer) error {
	data, err := encode(repo)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(repodata, "repomd.xml"), data, 0o644); err != nil {
		return err
	}
	return sign(repodata, signer, data)
}

func sign(repodata string, signer Signer, index []byte) error {
	signature, err := signer.Detached(index)
	if err != nil {
		return err
	}
	path := filepath.Join(repodata, "repomd.xml.asc")
	// The one that is there may be a hard link to one that is served.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, signature, 0o644)
}

// Renew signs the index in dir again. The format has no end of its own: that of
// the signature counts.
func Renew(dir string, signer Signer) error {
	repodata := filepath.Join(dir, "repodata")
	index, err := os.ReadFile(filepath.Join(repodata, "repomd.xml"))
	if err != nil {
		return err
	}
	return sign(repodata, signer, index)
}

// writeIndex writes an index under a name that has its hash, so that a client
// never takes one of another release for it.
func writeIndex(repodata, kind string, content any, now time.Time) (repomdData, error) {
	data, err := encode(content)
	if err != nil {
		return repomdData{}, err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(data)
	if err := errors.Join(err, z.Close()); err != nil {
		return repomdData{}, err
	}
	sum := sumOf(packed.Bytes())
	name := sum + "-" + kind + ".xml.gz"
	return repomdData{
		Type: kind, Checksum: checksum{"sha256", sum}, OpenChecksum: checksum{"sha256", sumOf(data)},
		Location: location{"repodata/" + name}, Timestamp: now.Unix(), Size: packed.Len(), OpenSize: len(data),
	}, os.WriteFile(filepath.Join(repodata, name), packed.Bytes(), 0o644)
}

func encode(content any) ([]byte, error) {
	data, err := xml.MarshalIndent(content, "", "  ")
	return append([]byte(xml.Header), append(data, '\n')...), err
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// describe returns what the indexes say of a package.
func describe(file string) (primaryPackage, filelistsPackage, error) {
	f, err := os.Open(file)
	if err != nil {
		return primaryPackage{}, filelistsPackage{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return primaryPackage{}, filelistsPackage{}, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return primaryPackage{}, filelistsPackage{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return primaryPackage{}, filelistsPackage{}, err
	}
	return read(f, info, hex.EncodeToString(sum.Sum(nil)))
}

// read reads a package's header. The library takes what it reads for granted:
// it panics where numbers are wrong, and takes as much memory as they say.
func read(f *os.File, info fs.FileInfo, sum string) (p primaryPackage, list filelistsPackage, err error) {
	if err := checkSizes(f); err != nil {
		return p, list, err
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	h, err := rpmutils.ReadHeader(f)
	if err != nil {
		return p, list, err
	}
	return packageOf(&header{h}, info, sum)
}

var errDamaged = errors.New("it is no rpm package, or a damaged one")

const (
	leadSize  = 96
	introSize = 16
	entrySize = 16
	// Bounds of a header: entries, and bytes of their data.
	maxEntries, maxData = 1 << 16, 32 << 20
)

// checkSizes bounds what the two headers of a package say of themselves. The
// second begins where the first ends, at a multiple of eight bytes.
func checkSizes(f io.ReaderAt) error {
	at := int64(leadSize)
	for range 2 {
		var intro [introSize]byte
		if _, err := f.ReadAt(intro[:], at); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		entries, data := binary.BigEndian.Uint32(intro[8:]), binary.BigEndian.Uint32(intro[12:])
		if entries > maxEntries || data > maxData {
			return fmt.Errorf("%w: a header of %d entries and %d bytes", errDamaged, entries, data)
		}
		at += introSize + int64(entries)*entrySize + int64(data+7)/8*8
	}
	return nil
}
