// Package rpmrepo writes the metadata of a dnf repository. It is part of the
// server and imports no other package of fleet.
package rpmrepo

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
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
	signature, err := signer.Detached(data)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(repodata, "repomd.xml"), data, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(repodata, "repomd.xml.asc"), signature, 0o644)
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
	h, err := rpmutils.ReadHeader(f)
	if err != nil {
		return primaryPackage{}, filelistsPackage{}, err
	}
	return packageOf(&header{h}, info, hex.EncodeToString(sum.Sum(nil)))
}
