// Package pki holds the server's certificates: one root, which enrollment
// tokens pin, and below it one issuing authority for each kind of holder, so
// that a device's certificate can never open the API and an operator's never
// a device's subjects.
//
//	root ─┬─ server authority   ── serving certificates of 6443, 4222, 8443
//	      ├─ device authority   ── devices (SPIFFE id)
//	      └─ operator authority ── kubeconfigs
//
// Keys are ECDSA P-256, stored in PEM with mode 0600. The package imports the
// standard library and sibling leaf packages only.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

const (
	// backdate makes certificates valid for peers whose clock is behind.
	backdate = 24 * time.Hour

	rootValidity      = 30 * 365 * 24 * time.Hour
	authorityValidity = 20 * 365 * 24 * time.Hour
)

// ErrIncomplete: some files of an authority exist and some do not.
var ErrIncomplete = errors.New("certificate authority is incomplete")

// Authority is a certificate with its key that can issue others.
type Authority struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// PKI is the set of authorities of one server.
type PKI struct {
	Root, Server, Device, Operator *Authority
}

// Load reads the authorities from dir and creates those of a first start.
// Files are "<name>.crt" and "<name>.key".
func Load(dir string, now time.Time) (*PKI, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the PKI directory: %w", err)
	}
	p := &PKI{}
	var err error
	if p.Root, err = loadAuthority(dir, "root", nil, now, rootValidity); err != nil {
		return nil, err
	}
	for name, a := range map[string]**Authority{"server": &p.Server, "device": &p.Device, "operator": &p.Operator} {
		if *a, err = loadAuthority(dir, name, p.Root, now, authorityValidity); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// RootHash is the SHA-256 of the root's public key, as enrollment tokens carry it.
func (p *PKI) RootHash() [sha256.Size]byte { return sha256.Sum256(p.Root.Cert.RawSubjectPublicKeyInfo) }

// RootPEM is the root certificate in PEM.
func (p *PKI) RootPEM() []byte { return encodeCert(p.Root.Cert) }

// Pool returns a pool with this authority's certificate alone, so that only
// certificates which it issued are accepted.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	return pool
}

// PEM is the authority's certificate in PEM.
func (a *Authority) PEM() []byte { return encodeCert(a.Cert) }

// Issue signs a certificate for a public key. Serial number and validity are
// filled in. It returns the leaf followed by the authority's own certificate;
// the root is left out, since the peer must know it already.
func (a *Authority) Issue(tmpl *x509.Certificate, pub any, now time.Time, validity time.Duration) ([]*x509.Certificate, error) {
	t := *tmpl
	t.BasicConstraintsValid = true
	leaf, err := a.sign(&t, pub, now, validity)
	if err != nil {
		return nil, err
	}
	return []*x509.Certificate{leaf, a.Cert}, nil
}

// EncodeChain returns certificates in PEM.
func EncodeChain(chain []*x509.Certificate) []byte {
	var out []byte
	for _, c := range chain {
		out = append(out, encodeCert(c)...)
	}
	return out
}

// EncodeKey returns a private key in PEM (PKCS #8).
func EncodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// NewKey generates a key.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// Fingerprint is the SHA-256 of a certificate's or request's
// SubjectPublicKeyInfo, in hex.
func Fingerprint(rawSubjectPublicKeyInfo []byte) string {
	sum := sha256.Sum256(rawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func (a *Authority) sign(tmpl *x509.Certificate, pub any, now time.Time, validity time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	tmpl.SerialNumber = serial
	tmpl.NotBefore = now.Add(-backdate)
	tmpl.NotAfter = now.Add(validity)
	parent := a.Cert
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %q: %w", tmpl.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func loadAuthority(dir, name string, parent *Authority, now time.Time, validity time.Duration) (*Authority, error) {
	certPath, keyPath := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	certPEM, certErr := os.ReadFile(certPath)
	keyPEM, keyErr := os.ReadFile(keyPath)
	switch {
	// The key is written first: without a certificate it was never used, and a
	// power cut between the two files is mended by starting over.
	case errors.Is(certErr, os.ErrNotExist):
		return createAuthority(certPath, keyPath, name, parent, now, validity)
	case errors.Is(keyErr, os.ErrNotExist):
		return nil, fmt.Errorf("%w: %s exists but %s does not: restore it from a backup", ErrIncomplete, certPath, keyPath)
	case certErr != nil || keyErr != nil:
		return nil, fmt.Errorf("reading the %s authority: %w", name, errors.Join(certErr, keyErr))
	}
	cert, err := DecodeCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", certPath, err)
	}
	key, err := DecodeKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", keyPath, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%w: %s does not belong to %s: restore both from the same backup", ErrIncomplete, keyPath, certPath)
	}
	return &Authority{Cert: cert, key: key}, nil
}

func createAuthority(certPath, keyPath, name string, parent *Authority, now time.Time, validity time.Duration) (*Authority, error) {
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("generating the %s key: %w", name, err)
	}
	signer := parent
	if signer == nil {
		signer = &Authority{key: key}
	}
	cert, err := signer.sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "fleet " + name + " authority"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        parent != nil,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, &key.PublicKey, now, validity)
	if err != nil {
		return nil, err
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(keyPath, keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := atomicfile.Write(certPath, encodeCert(cert), 0o600); err != nil {
		return nil, err
	}
	return &Authority{Cert: cert, key: key}, nil
}

// DecodeCert decodes the first certificate of a PEM document.
func DecodeCert(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}

// DecodeKey decodes an ECDSA key in PKCS #8 PEM.
func DecodeKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no private key in PEM form")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("no private key in PKCS #8 form")
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the private key is not ECDSA")
	}
	return ec, nil
}

func encodeCert(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
