package store

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrNoIdentity: the device was not enrolled.
var ErrNoIdentity = errors.New("this device is not enrolled: run fleet-agent enroll first")

// Identity is what enrollment gave the device.
type Identity struct {
	// Device is the id that the certificate names.
	Device string `json:"device"`
	// Enrollment is a random id that this enrollment has kept through every
	// renewal. Documents that name another one are about an earlier life.
	Enrollment string `json:"enrollment,omitempty"`
	// Server is the URL that the device enrolled at.
	Server string `json:"server"`
	// Key is the device's private key in PEM (PKCS #8). It never leaves the device.
	Key string `json:"key"`
	// Certificate is the client certificate with its intermediates in PEM; empty
	// while enrollment is under way.
	Certificate string `json:"certificate,omitempty"`
	// Root is the fleet's root certificate in PEM.
	Root string `json:"root,omitempty"`
	// Servers are the NATS URLs given at enrollment.
	Servers []string `json:"servers,omitempty"`
}

// Enrolled reports whether the identity has a certificate.
func (i *Identity) Enrolled() bool { return i.Certificate != "" }

// TLS returns the client certificate and the roots that servers are verified
// against.
func (i *Identity) TLS() (tls.Certificate, *x509.CertPool, error) {
	cert, err := tls.X509KeyPair([]byte(i.Certificate), []byte(i.Key))
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("loading the device certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(i.Root)) {
		return tls.Certificate{}, nil, errors.New("loading the root certificate: no certificate in the identity")
	}
	return cert, roots, nil
}

// Identity returns the identity, or ErrNoIdentity when there is none. Unlike
// other documents a damaged identity is an error: to start over would lose the
// device's key.
func (s *Store) Identity() (*Identity, error) {
	data, err := readFile(filepath.Join(s.dir, identityFile), maxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoIdentity
	}
	if err != nil {
		return nil, fmt.Errorf("reading the identity: %w", err)
	}
	var id Identity
	if len(data) == 0 || json.Unmarshal(data, &id) != nil {
		s.damaged(identityFile, errors.New("not an identity"))
		return nil, fmt.Errorf("%w: %s is damaged", ErrNoIdentity, filepath.Join(s.dir, identityFile))
	}
	return &id, nil
}

// SaveIdentity replaces the identity. One file holds key and certificate, so
// that a power cut never leaves a pair that does not match.
// What was pending is done with.
func (s *Store) SaveIdentity(id *Identity) error {
	if err := s.write(identityFile, id, 0o600); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(s.dir, pendingFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the pending identity: %w", err)
	}
	return nil
}

// PendingIdentity returns the identity whose enrollment is under way, and
// false when there is none.
func (s *Store) PendingIdentity() (*Identity, bool) {
	var id Identity
	return &id, s.read(pendingFile, &id)
}

// SavePendingIdentity keeps a key that the server may have seen. The present
// identity stays in force until the new one has a certificate.
func (s *Store) SavePendingIdentity(id *Identity) error { return s.write(pendingFile, id, 0o600) }
