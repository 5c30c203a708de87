package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// keyFiles say where the keys of a release are. What is not named is made below
// cache, once: trusted by nobody, good for trying things out.
type keyFiles struct{ release, packages, cache string }

// keys sign a release: ECDSA P-256 its checksums, OpenPGP its rpm packages and
// their index.
type keys struct {
	release  *ecdsa.PrivateKey
	packages *openpgp.Entity
}

// madeAt is the creation date of an OpenPGP key that is made here. A signature
// must not be older than its key, and has the date of the sources.
var madeAt = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

func (f keyFiles) load() (*keys, error) {
	release, err := fileOr(f.release, filepath.Join(f.cache, "release.key"), newReleaseKey)
	if err != nil {
		return nil, fmt.Errorf("reading the release's key: %w", err)
	}
	packages, err := fileOr(f.packages, filepath.Join(f.cache, "packages.key"), newPackagesKey)
	if err != nil {
		return nil, fmt.Errorf("reading the packages' key: %w", err)
	}
	k := &keys{}
	if k.release, err = parseReleaseKey(release); err != nil {
		return nil, fmt.Errorf("reading the release's key: %w", err)
	}
	if k.packages, err = parsePackagesKey(packages); err != nil {
		return nil, fmt.Errorf("reading the packages' key: %w", err)
	}
	return k, nil
}

// fileOr reads the file that is named, or the one in the cache, which it makes
// when it is not there.
func fileOr(named, cached string, generate func() ([]byte, error)) ([]byte, error) {
	if named != "" {
		return os.ReadFile(named)
	}
	data, err := os.ReadFile(cached)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if data, err = generate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(cached), 0o700); err != nil {
		return nil, err
	}
	return keepFirst(cached, data)
}

// keepFirst writes a file that is not there yet, whole. When another run was
// quicker, its data are returned: both must sign with the same key.
func keepFirst(path string, data []byte) ([]byte, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(f.Name()) }() // what has a name by then stays
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return os.ReadFile(path)
	} else if err != nil {
		return nil, err
	}
	return data, nil
}

func newReleaseKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

func parseReleaseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("not a PEM file")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		parsed, err = x509.ParseECPrivateKey(block.Bytes) // as openssl ecparam writes it
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, errors.Join(errors.New("not an ECDSA key on P-256"), err)
	}
	return key, nil
}

// newPackagesKey makes an RSA key: rpm of the older distributions takes nothing
// else.
func newPackagesKey() ([]byte, error) {
	config := &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 3072, Time: func() time.Time { return madeAt }}
	entity, err := openpgp.NewEntity("fleet packages", "made by make packages, for development", "maintainers@fleet.nationtech.io", config)
	if err != nil {
		return nil, err
	}
	return armored(openpgp.PrivateKeyType, func(w io.Writer) error { return entity.SerializePrivate(w, config) })
}

func parsePackagesKey(data []byte) (*openpgp.Entity, error) {
	ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if len(ring) != 1 || ring[0].PrivateKey == nil || ring[0].PrivateKey.Encrypted {
		return nil, errors.New("not one private OpenPGP key without a passphrase, in ASCII armour")
	}
	return ring[0], nil
}

func armored(block string, write func(io.Writer) error) ([]byte, error) {
	var b bytes.Buffer
	w, err := armor.Encode(&b, block, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(write(w), w.Close()); err != nil {
		return nil, err
	}
	return append(b.Bytes(), '\n'), nil
}

// publicRelease is release.pub.
func (k *keys) publicRelease() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.release.Public())
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), err
}

// publicPackages is packages.asc.
func (k *keys) publicPackages() ([]byte, error) {
	return armored(openpgp.PublicKeyType, k.packages.Serialize)
}

// signChecksums signs a list of checksums, or a package, which begins otherwise.
// It is deterministic (RFC 6979), since it gets no randomness.
func (k *keys) signChecksums(data []byte) ([]byte, error) {
	digest := sha256.Sum256(data)
	return k.release.Sign(nil, digest[:], crypto.SHA256)
}

// The last member of a deb, as package debsig of the agent reads it.
const (
	debHeader        = "_fleet-release  0           0     0     100644  128       `\n"
	debSignatureSize = 128
)

// signDeb appends a member with the signature of all that is before it. dpkg
// skips members with an underscore.
func (k *keys) signDeb(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(content)%2 != 0 { // members begin at even places
		content = append(content, '\n')
	}
	signature, err := k.signChecksums(content)
	if err != nil {
		return err
	}
	text := base64.StdEncoding.EncodeToString(signature)
	content = append(content, debHeader+text+strings.Repeat("\n", debSignatureSize-len(text))...)
	return os.WriteFile(path, content, 0o644)
}

// rpmSigner signs packages.
func (k *keys) rpmSigner(at time.Time) func(io.Reader) ([]byte, error) {
	return func(data io.Reader) ([]byte, error) {
		var b bytes.Buffer
		err := openpgp.DetachSign(&b, k.packages, data, k.signing(at))
		return b.Bytes(), err
	}
}

// signIndex signs an index for dnf.
func (k *keys) signIndex(index []byte, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	err := openpgp.ArmoredDetachSign(&b, k.packages, bytes.NewReader(index), k.signing(at))
	return append(b.Bytes(), '\n'), err
}

// signing has the date of the sources and no salt.
func (k *keys) signing(at time.Time) *packet.Config {
	if at.Before(k.packages.PrimaryKey.CreationTime) {
		at = k.packages.PrimaryKey.CreationTime
	}
	unsalted := false
	return &packet.Config{
		DefaultHash: crypto.SHA256, Time: func() time.Time { return at },
		NonDeterministicSignaturesViaNotation: &unsalted,
	}
}
