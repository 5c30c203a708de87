// Package rpmrepo makes and verifies the metadata of a dnf repository. It imports
// no other package of fleet.
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
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sassoftware/go-rpmutils"
)

const (
	namespaceCommon    = "http://linux.duke.edu/metadata/common"
	namespaceFilelists = "http://linux.duke.edu/metadata/filelists"
	namespaceRPM       = "http://linux.duke.edu/metadata/rpm"
	namespaceRepo      = "http://linux.duke.edu/metadata/repo"
)

// Names of the parts of an index. RepomdName and its signature have the same
// name in a repository.
const (
	RepomdName    = "repomd.xml"
	SignatureName = "repomd.xml.asc"
	PrimaryName   = "primary.xml.gz"
	FilelistsName = "filelists.xml.gz"
)

// Index is the metadata of a repository. Repomd has the checksums of the rest.
type Index struct{ Repomd, Primary, Filelists []byte }

// Make describes packages. Equal packages and date give equal bytes.
func Make(packages []string, date time.Time) (*Index, error) {
	primary := primaryIndex{Namespace: namespaceCommon, RPM: namespaceRPM, Count: len(packages)}
	lists := filelistsIndex{Namespace: namespaceFilelists, Count: len(packages)}
	for _, path := range packages {
		p, list, err := describe(path, date)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", filepath.Base(path), err)
		}
		primary.Packages = append(primary.Packages, p)
		lists.Packages = append(lists.Packages, list)
	}
	x := &Index{}
	repo := repomd{Namespace: namespaceRepo, Revision: strconv.FormatInt(date.Unix(), 10)}
	for _, part := range []struct {
		name    string
		content any
		packed  *[]byte
	}{{PrimaryName, primary, &x.Primary}, {FilelistsName, lists, &x.Filelists}} {
		entry, packed, err := pack(part.name, part.content, date)
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", part.name, err)
		}
		repo.Data = append(repo.Data, entry)
		*part.packed = packed
	}
	var err error
	x.Repomd, err = encode(repo)
	return x, err
}

// Files are those of repodata/ in a repository, by their names there.
func (x *Index) Files() map[string][]byte {
	return map[string][]byte{
		RepomdName: x.Repomd, served(PrimaryName, x.Primary): x.Primary, served(FilelistsName, x.Filelists): x.Filelists,
	}
}

// served is a name with a hash in it, so that a client never takes a part of one
// index for that of another.
func served(name string, packed []byte) string { return sumOf(packed) + "-" + name }

// ErrOther: an index is not that of the packages.
var ErrOther = errors.New("the index is not that of the packages")

// Verify returns an error that wraps ErrOther unless the index is complete, and
// of these packages and no other: SHA-256 in hex by name.
func (x *Index) Verify(packages map[string]string) error {
	var repo repomd
	if err := xml.Unmarshal(x.Repomd, &repo); err != nil {
		return fmt.Errorf("%w: %w", ErrOther, err)
	}
	want := map[string]string{
		"primary":   "repodata/" + served(PrimaryName, x.Primary),
		"filelists": "repodata/" + served(FilelistsName, x.Filelists),
	}
	have := map[string]string{}
	for _, d := range repo.Data {
		have[d.Type] = d.Location.Href
		if d.Checksum.Type != "sha256" || d.Location.Href != "repodata/"+d.Checksum.Value+"-"+d.Type+".xml.gz" {
			return fmt.Errorf("%w: %s is not called by its SHA-256", ErrOther, d.Type)
		}
	}
	if len(repo.Data) != len(want) || !maps.Equal(have, want) {
		return fmt.Errorf("%w: %s names other parts", ErrOther, RepomdName)
	}
	return verifyPrimary(x.Primary, packages)
}

func verifyPrimary(packed []byte, packages map[string]string) error {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOther, err)
	}
	var primary primaryIndex
	if err := xml.NewDecoder(io.LimitReader(z, maxData)).Decode(&primary); err != nil {
		return fmt.Errorf("%w: %w", ErrOther, err)
	}
	have := map[string]string{}
	for _, p := range primary.Packages {
		if p.Checksum.Type != "sha256" {
			return fmt.Errorf("%w: %s has no SHA-256", ErrOther, p.Location.Href)
		}
		have[p.Location.Href] = p.Checksum.Value
	}
	if len(primary.Packages) != len(packages) || !maps.Equal(have, packages) {
		return fmt.Errorf("%w: it has other packages, or other checksums", ErrOther)
	}
	return nil
}

// pack returns a part of an index, and what repomd.xml says of it.
func pack(name string, content any, date time.Time) (repomdData, []byte, error) {
	data, err := encode(content)
	if err != nil {
		return repomdData{}, nil, err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(data)
	if err := errors.Join(err, z.Close()); err != nil {
		return repomdData{}, nil, err
	}
	kind, _, _ := strings.Cut(name, ".")
	return repomdData{
		Type: kind, Checksum: checksum{"sha256", sumOf(packed.Bytes())}, OpenChecksum: checksum{"sha256", sumOf(data)},
		Location: location{"repodata/" + served(name, packed.Bytes())}, Timestamp: date.Unix(), Size: packed.Len(), OpenSize: len(data),
	}, packed.Bytes(), nil
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
func describe(file string, date time.Time) (primaryPackage, filelistsPackage, error) {
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
	return read(f, origin{info.Name(), info.Size(), date}, hex.EncodeToString(sum.Sum(nil)))
}

// origin is what an index says of a package's file beside its checksum.
type origin struct {
	name string
	size int64
	date time.Time
}

// read reads a package's header. The library takes what it reads for granted:
// it panics where numbers are wrong, and takes as much memory as they say.
func read(f *os.File, o origin, sum string) (p primaryPackage, list filelistsPackage, err error) {
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
	return packageOf(&header{h}, o, sum)
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
