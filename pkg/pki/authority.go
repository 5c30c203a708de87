package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"sync/atomic"
	"time"
)

// Authority issues the certificates of one kind of holder. Its own certificate
// and key may be replaced at any time: the newest issues, and those before it
// are trusted for as long as they are kept.
type Authority struct {
	generations atomic.Pointer[[]generation] // newest first, never empty
}

// generation is one certificate of an authority with its key.
type generation struct {
	entry
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// cross is, for a root, its key under the signature of the root before it; nil
	// for the oldest.
	cross *x509.Certificate
	// above is what is sent beside cert, so that peers which know an older root
	// find a way to it.
	above []*x509.Certificate
}

func (a *Authority) all() []generation  { return *a.generations.Load() }
func (a *Authority) newest() generation { return a.all()[0] }

// Cert is the certificate that issues.
func (a *Authority) Cert() *x509.Certificate { return a.newest().cert }

// Certificates are those that are trusted, the newest first.
func (a *Authority) Certificates() []*x509.Certificate {
	all := a.all()
	out := make([]*x509.Certificate, len(all))
	for i, g := range all {
		out[i] = g.cert
	}
	return out
}

// Pool returns a pool with this authority's certificates alone, so that only
// certificates which it issued are accepted.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range a.Certificates() {
		pool.AddCert(c)
	}
	return pool
}

// PEM is the authority's certificates in PEM, the newest first.
func (a *Authority) PEM() []byte { return EncodeChain(a.Certificates()) }

// Issue signs a certificate for a public key. Serial number and validity are
// filled in; a NotBefore that is set stays. It returns the leaf followed by
// the authority's own certificate and, for the server authority, by what leads
// to older roots. The newest root is left out: the peer must know one already.
func (a *Authority) Issue(tmpl *x509.Certificate, pub any, now time.Time, validity time.Duration) ([]*x509.Certificate, error) {
	t := *tmpl
	t.BasicConstraintsValid = true
	if t.NotBefore.IsZero() {
		t.NotBefore = now.Add(-clientBackdate)
	}
	g := a.newest()
	leaf, err := sign(&t, g.cert, g.key, pub, now.Add(validity))
	if err != nil {
		return nil, err
	}
	return append([]*x509.Certificate{leaf, g.cert}, g.above...), nil
}

// sign signs tmpl, whose NotBefore is set. Without a parent it signs itself.
func sign(tmpl, parent *x509.Certificate, key *ecdsa.PrivateKey, pub any, notAfter time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	tmpl.SerialNumber = serial
	tmpl.NotAfter = notAfter
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %q: %w", tmpl.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}
