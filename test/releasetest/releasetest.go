// Package releasetest makes small signed releases, for tests of what imports
// and serves them. Their packages are real, but have nothing to run in them.
package releasetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/blakesmith/ar"
	"github.com/google/rpmpack"

	"fleet.nationtech.io/fleet/pkg/release/rpmrepo"
)

// built is the time in all packages.
var built = time.Unix(1_700_000_000, 0)

// Maker signs releases.
type Maker struct {
	key      *ecdsa.PrivateKey
	packages *openpgp.Entity
}

// NewMaker returns a maker with new keys.
func NewMaker() (*Maker, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	packages, err := openpgp.NewEntity("fleet packages", "", "", pgpConfig())
	return &Maker{key, packages}, err
}

// pgpConfig: rpm of Debian 12 knows no newer keys. They are older than what
// they sign.
func pgpConfig() *packet.Config {
	return &packet.Config{
		Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048, DefaultHash: crypto.SHA256,
		Time: func() time.Time { return built },
	}
}

// SignedBy returns a maker of the same releases whose packages another private
// OpenPGP key signs, in armor.
func (m *Maker) SignedBy(armored []byte) (*Maker, error) {
	keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(armored))
	if err != nil {
		return nil, err
	}
	return &Maker{m.key, keys[0]}, nil
}

// PublicKey is the key of the maker's releases.
func (m *Maker) PublicKey() *ecdsa.PublicKey { return &m.key.PublicKey }

// Installer is an install.sh that prints what the gateway filled in.
const Installer = "#!/bin/sh\nGATEWAY_URL=''\nGATEWAY_CA_HASH=''\nGATEWAY_PUBKEY_PIN=''\n" +
	"echo \"$GATEWAY_URL $GATEWAY_CA_HASH $GATEWAY_PUBKEY_PIN $FLEET_TOKEN\"\n"

// Files are the files of a release without its checksums: packages of fleet-agent
// for this architecture that hold a file with the version, and what else a
// release has, an index for dnf among it.
func (m *Maker) Files(version string) (map[string][]byte, error) {
	public, err := x509.MarshalPKIXPublicKey(&m.key.PublicKey)
	if err != nil {
		return nil, err
	}
	deb, err := Deb("fleet-agent", version)
	if err != nil {
		return nil, err
	}
	rpm, err := m.RPM("fleet-agent", version)
	if err != nil {
		return nil, err
	}
	packages, err := m.packagesKey()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"version":    []byte(version + "\n"),
		About:        []byte("Version: " + version + "\nDate: " + built.UTC().Format(time.RFC3339) + "\nChannels: stable\n"),
		"install.sh": []byte(Installer),
		"fleet-agent_" + version + "_" + runtime.GOARCH + ".deb": deb,
		"fleet-agent-" + version + "-1." + rpmArch() + ".rpm":    rpm,
		"fleet-agent_" + version + "_linux_" + runtime.GOARCH:    []byte("a static binary"),
		"release.pub":  pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"packages.asc": packages,
	}
	return files, m.Index(files)
}

// Index adds the signed index for dnf of the rpm packages of a release, or replaces
// it.
func (m *Maker) Index(files map[string][]byte) error {
	dir, err := os.MkdirTemp("", "fleet-index-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var packages []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(name, ".rpm") {
			continue
		}
		packages = append(packages, filepath.Join(dir, name))
		if err := os.WriteFile(filepath.Join(dir, name), files[name], 0o600); err != nil {
			return err
		}
	}
	index, err := rpmrepo.Make(packages, built)
	if err != nil {
		return err
	}
	return m.addIndex(files, index)
}

func (m *Maker) addIndex(files map[string][]byte, index *rpmrepo.Index) error {
	var signature bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&signature, m.packages, bytes.NewReader(index.Repomd), m.signing()); err != nil {
		return err
	}
	for part, data := range map[string][]byte{
		rpmrepo.RepomdName: index.Repomd, rpmrepo.SignatureName: signature.Bytes(),
		rpmrepo.PrimaryName: index.Primary, rpmrepo.FilelistsName: index.Filelists,
	} {
		files[IndexFile(part)] = data
	}
	return nil
}

// IndexFile is the name in a release of a part of the index for dnf.
func IndexFile(part string) string { return "repodata-" + rpmArch() + "-" + part }

// signing is as pgpConfig, but never older than the key.
func (m *Maker) signing() *packet.Config {
	c := pgpConfig()
	if made := m.packages.PrimaryKey.CreationTime; made.After(built) {
		c.Time = func() time.Time { return made }
	}
	return c
}

// Write writes files with their signed checksums into a directory.
func (m *Maker) Write(dir string, files map[string][]byte) error {
	var sums strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(files[name]), name)
	}
	sum := sha256.Sum256([]byte(sums.String()))
	signature, err := ecdsa.SignASN1(rand.Reader, m.key, sum[:])
	if err != nil {
		return err
	}
	all := maps.Clone(files)
	all["checksums.txt"], all["checksums.txt.sig"] = []byte(sums.String()), signature
	for name, data := range all {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Tar returns the files of a directory as a bundle.
func Tar(dir string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		return addFile(w, name, data, 0o644)
	})
	if err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

func addFile(w *tar.Writer, name string, data []byte, mode int64) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data)), ModTime: built}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// About is the file that says what a release is.
const About = "release.txt"

// content is the file in each package, VersionFile, which says its version.
func content(version string) []byte { return []byte(version + "\n") }

// VersionFile is where packages put a file with their version.
func VersionFile(name string) string { return "/usr/share/" + name + "/version" }

// Deb returns a Debian package.
func Deb(name, version string) ([]byte, error) {
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: Nobody <nobody@example.com>\nDescription: for a test\n more of it\n", name, version, runtime.GOARCH)
	controlTar, err := gzippedTar("./control", []byte(control))
	if err != nil {
		return nil, err
	}
	dataTar, err := gzippedTar("."+VersionFile(name), content(version))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := ar.NewWriter(&b)
	if err := w.WriteGlobalHeader(); err != nil {
		return nil, err
	}
	for _, member := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", controlTar}, {"data.tar.gz", dataTar}} {
		if err := w.WriteHeader(&ar.Header{Name: member.name, ModTime: built, Mode: 0o644, Size: int64(len(member.data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(member.data); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

func gzippedTar(name string, data []byte) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	// dpkg makes no directory that the package does not have.
	for i := range name {
		if name[i] != '/' {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Name: name[:i+1], Typeflag: tar.TypeDir, Mode: 0o755, ModTime: built}); err != nil {
			return nil, err
		}
	}
	if err := addFile(w, name, data, 0o644); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	err := z.Close()
	return b.Bytes(), err
}

// rpmArch is this architecture in rpm's words.
func rpmArch() string {
	if arch, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7hl"}[runtime.GOARCH]; ok {
		return arch
	}
	return runtime.GOARCH
}

// RPM returns an rpm package that the maker signed.
func (m *Maker) RPM(name, version string) ([]byte, error) {
	// What it needs it has itself: machines under test have no other rpm.
	var requires, provides rpmpack.Relations
	if err := errors.Join(requires.Set("fleet-test >= 1.2"), provides.Set("fleet-test = 2:1.3-4")); err != nil {
		return nil, err
	}
	p, err := rpmpack.NewRPM(rpmpack.RPMMetaData{
		Name: name, Version: version, Release: "1", Arch: rpmArch(), OS: "linux", Summary: "for a test", Description: "for a test & no more",
		Licence: "Apache-2.0", BuildTime: built, Compressor: "gzip", Requires: requires, Provides: provides,
	})
	if err != nil {
		return nil, err
	}
	p.AddFile(rpmpack.RPMFile{Name: VersionFile(name), Body: content(version), Mode: 0o644, Owner: "root", Group: "root", MTime: uint32(built.Unix())})
	p.SetPGPSigner(func(data []byte) ([]byte, error) {
		var b bytes.Buffer
		err := openpgp.DetachSign(&b, m.packages, bytes.NewReader(data), m.signing())
		return b.Bytes(), err
	})
	var b bytes.Buffer
	err = p.Write(&b)
	return b.Bytes(), err
}

func (m *Maker) packagesKey() ([]byte, error) {
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		return nil, err
	}
	if err := m.packages.Serialize(w); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}
