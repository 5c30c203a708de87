// Package pki holds the server's certificates: one root, which enrollment
// tokens pin, and below it one issuing authority for each kind of holder, so
// that a device's certificate can never open the API and an operator's never
// a device's subjects.
//
//	root ─┬─ server authority   ── serving certificates of 6443, 4222, 8443
//	      ├─ device authority   ── devices (SPIFFE id)
//	      └─ operator authority ── kubeconfigs, readers of the bus
//
// Each of the four can be replaced while the server runs: the newest issues,
// the older ones verify until nothing depends on them. A new root is signed by
// the one before it as well, so that whoever knows only that one still trusts
// what is served.
//
// Keys are ECDSA P-256, stored in PEM with mode 0600. The package imports the
// standard library and sibling leaf packages only.
package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"
)

const (
	// clientBackdate makes certificates of clients valid before their time: the
	// server, whose clock issued them, verifies them.
	clientBackdate = 24 * time.Hour
	// servingBackdate is more generous, since those are verified by devices, some
	// of which have no battery for their clock. It holds for the authorities too,
	// which are part of the same chains.
	servingBackdate = 30 * 24 * time.Hour

	rootValidity      = 30 * 365 * 24 * time.Hour
	authorityValidity = 20 * 365 * 24 * time.Hour
	operatorValidity  = 365 * 24 * time.Hour

	// DeviceValidity is the life of a device's certificate.
	DeviceValidity = 365 * 24 * time.Hour
)

// PKI is the set of authorities of one server. Its methods and those of its
// authorities may be called at any time, during a rotation too.
type PKI struct {
	Root, Server, Device, Operator *Authority

	dir   string
	write func(path string, data []byte, perm os.FileMode) error

	mu    sync.Mutex // guards index and the files
	index index
}

// RootHash is the SHA-256 of the newest root's public key, as new enrollment
// tokens carry it.
func (p *PKI) RootHash() [sha256.Size]byte { return rootHash(p.Root.newest()) }

// HasRoot reports whether a hash, as in an enrollment token, is that of a root
// which is still trusted.
func (p *PKI) HasRoot(hash [sha256.Size]byte) bool {
	for _, g := range p.Root.all() {
		if rootHash(g) == hash {
			return true
		}
	}
	return false
}

// RootsPEM is the root certificates in PEM, the newest first.
func (p *PKI) RootsPEM() []byte { return p.Root.PEM() }

// IssueOperator returns a client certificate chain and key for a person: the
// common name is the user name, the organizations are the groups. It is valid
// for ttl, at most a year.
func (p *PKI) IssueOperator(user string, groups []string, now time.Time, ttl time.Duration) (certPEM, keyPEM []byte, err error) {
	key, err := NewKey()
	if err != nil {
		return nil, nil, fmt.Errorf("generating a key for %q: %w", user, err)
	}
	chain, err := p.Operator.Issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, &key.PublicKey, now, min(ttl, operatorValidity))
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = EncodeKey(key)
	return EncodeChain(chain), keyPEM, err
}

// IssueDevice returns the client certificate chain of a device. uri is its
// SPIFFE id; nothing else of the request than the public key is used.
func (p *PKI) IssueDevice(device string, uri *url.URL, pub any, now time.Time) ([]*x509.Certificate, error) {
	return p.Device.Issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: device},
		URIs:        []*url.URL{uri},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, pub, now, DeviceValidity)
}

func rootHash(g generation) [sha256.Size]byte { return sha256.Sum256(g.cert.RawSubjectPublicKeyInfo) }

// use puts generations in force. The server authority is sent to peers
// together with what leads from its root to older ones.
func (p *PKI) use(generations map[string][]generation) {
	roots := generations[roleRoot]
	for i, s := range generations[roleServer] {
		for j, r := range roots {
			if !bytes.Equal(s.cert.AuthorityKeyId, r.cert.SubjectKeyId) {
				continue
			}
			for _, newer := range roots[j : len(roots)-1] {
				generations[roleServer][i].above = append(generations[roleServer][i].above, newer.cross)
			}
		}
	}
	for role, a := range map[string]**Authority{roleRoot: &p.Root, roleServer: &p.Server, roleDevice: &p.Device, roleOperator: &p.Operator} {
		if *a == nil {
			*a = &Authority{}
		}
		g := generations[role]
		(*a).generations.Store(&g)
	}
}
