package store

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
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
	// Key is the text of the device's private key, see package keystore. It never
	// leaves the device.
	Key string `json:"key"`
	// Certificate is the client certificate with its intermediates in PEM; empty
	// while enrollment is under way.
	Certificate string `json:"certificate,omitempty"`
	// Root is the fleet's root certificates in PEM.
	Root string `json:"root,omitempty"`
	// Servers are the NATS URLs given at enrollment.
	Servers []string `json:"servers,omitempty"`
}

// NewEnrollment returns a random id for Identity.Enrollment.
func NewEnrollment() string { return rand.Text() }

// Enrolled reports whether the identity has a certificate.
func (i *Identity) Enrolled() bool { return i.Certificate != "" }

// TLS returns the client certificate for the identity's key, and the roots that
// servers are verified against.
func (i *Identity) TLS(key crypto.Signer) (*tls.Certificate, *x509.CertPool, error) {
	cert := &tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode([]byte(i.Certificate)); block != nil; block, rest = pem.Decode(rest) {
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	if len(cert.Certificate) == 0 {
		return nil, nil, errors.New("loading the device certificate: no certificate in the identity")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, nil, fmt.Errorf("loading the device certificate: %w", err)
	}
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return nil, nil, errors.New("loading the device certificate: it is for another key")
	}
	cert.Leaf = leaf
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(i.Root)) {
		return nil, nil, errors.New("loading the root certificate: no certificate in the identity")
	}
	return cert, roots, nil
}

// Identity returns the identity, or ErrNoIdentity when there is none. When it is damaged,
// it is the spare one, or an error: to start over would lose the device's key.
func (s *Store) Identity() (*Identity, error) {
	id, err := s.readIdentity()
	if err == nil || errors.Is(err, fs.ErrNotExist) || !errors.Is(err, errIdentity) {
		return id, identityError(err)
	}
	s.damaged(identityFile, err)
	if spare, ok := s.spareIdentity(); ok {
		s.log.Warn("the spare identity is used")
		return spare, nil
	}
	return nil, fmt.Errorf("%w: %s is damaged", ErrNoIdentity, filepath.Join(s.dir, identityFile))
}

func identityError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return ErrNoIdentity
	}
	return fmt.Errorf("reading the identity: %w", err)
}

// errIdentity: the file of the identity is damaged.
var errIdentity = errors.New("not an identity")

// readIdentity returns errIdentity for a file that is damaged, or fs.ErrNotExist.
func (s *Store) readIdentity() (*Identity, error) {
	data, err := readFile(filepath.Join(s.dir, identityFile), maxDocument)
	if err != nil {
		return nil, err
	}
	var id Identity
	if json.Unmarshal(data, &id) != nil {
		return nil, errIdentity
	}
	return &id, nil
}

// spareIdentity returns the copy of the identity, if there is one that is whole.
func (s *Store) spareIdentity() (*Identity, bool) {
	id, err := readSealed(s, spareFile, func(*Identity) error { return nil })
	return id, err == nil
}

// mirrorIdentity makes the spare identity what the identity is, or the identity what the
// spare one is if it is damaged.
func (s *Store) mirrorIdentity() error {
	id, err := s.readIdentity()
	spare, there := s.spareIdentity()
	switch {
	case errors.Is(err, errIdentity) && there:
		s.log.Warn("the identity was damaged and is written again from the spare one", "file", identityFile)
		return s.write(identityFile, spare)
	case err != nil || !id.Enrolled() || there && reflect.DeepEqual(id, spare):
		return nil
	}
	data, err := seal(id)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", spareFile, err)
	}
	return s.put(filepath.Join(s.dir, spareFile), data)
}

// SaveIdentity replaces the identity. One file holds key and certificate, so
// that a power cut never leaves a pair that does not match.
// What was pending is done with, and so is what there was of earlier identities.
func (s *Store) SaveIdentity(id *Identity) error {
	if err := s.write(identityFile, id); err != nil {
		return err
	}
	return s.remove(pendingFile, renewalFile, previousFile, spareFile)
}

// MoveIdentity notes that the server of the identity is at another address. An agent that
// runs does not notice.
func (s *Store) MoveIdentity(server string) error {
	id, err := s.Identity()
	if err != nil {
		return err
	}
	id.Server = server
	return errors.Join(s.write(identityFile, id), s.mirrorIdentity())
}

// RenewIdentity replaces the identity by its next one, and keeps the old beside
// it until ForgetPrevious.
func (s *Store) RenewIdentity(old, next *Identity) error {
	if err := s.write(previousFile, old); err != nil {
		return err
	}
	if err := s.write(identityFile, next); err != nil {
		return err
	}
	return s.remove(renewalFile, spareFile)
}

// PreviousIdentity returns the identity that the present one replaced, and false
// when there is none of the same enrollment.
func (s *Store) PreviousIdentity(present *Identity) (*Identity, bool) {
	var id Identity
	if !s.read(previousFile, &id) || id.Enrollment != present.Enrollment || id.Certificate == present.Certificate {
		return nil, false
	}
	return &id, true
}

// RevertIdentity makes the previous identity the present one again. The key that
// was renewed for asks no more.
func (s *Store) RevertIdentity(previous *Identity) error {
	if err := s.write(identityFile, previous); err != nil {
		return err
	}
	return s.remove(previousFile, renewalFile, spareFile)
}

// ForgetPrevious removes the previous identity, and keeps a copy of the present one.
func (s *Store) ForgetPrevious() error {
	return errors.Join(s.remove(previousFile), s.mirrorIdentity())
}

// renewal is a key whose certificate is asked for.
type renewal struct {
	Enrollment string `json:"enrollment,omitempty"`
	Key        string `json:"key"`
}

// RenewalKey returns the text of the key for which the next certificate of an
// enrollment was asked, or "".
func (s *Store) RenewalKey(enrollment string) string {
	var r renewal
	if !s.read(renewalFile, &r) || r.Enrollment != enrollment {
		return ""
	}
	return r.Key
}

// SaveRenewalKey keeps a key that the server may have seen: after a power cut
// the same key asks again.
func (s *Store) SaveRenewalKey(enrollment, key string) error {
	return s.write(renewalFile, renewal{Enrollment: enrollment, Key: key})
}

// ForgetRenewalKey removes a key that the server does not take.
func (s *Store) ForgetRenewalKey() error { return s.remove(renewalFile) }

// PendingIdentity returns the identity whose enrollment is under way, and
// false when there is none.
func (s *Store) PendingIdentity() (*Identity, bool) {
	var id Identity
	return &id, s.read(pendingFile, &id)
}

// SavePendingIdentity keeps a key that the server may have seen. The present
// identity stays in force until the new one has a certificate.
func (s *Store) SavePendingIdentity(id *Identity) error { return s.write(pendingFile, id) }

// DropPendingIdentity forgets a key that will not be granted any more.
func (s *Store) DropPendingIdentity() error { return s.remove(pendingFile) }
