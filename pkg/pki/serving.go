package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	servingValidity = 365 * 24 * time.Hour
	// renewBefore is how long before its end a serving certificate is replaced.
	renewBefore = servingValidity / 3
	// checkInterval is how often certificates are looked at. An address that a
	// host is given is in them that soon; looking takes a millisecond.
	checkInterval = time.Minute
)

// Serving is the serving certificate of a listener: files "<name>.crt" and
// "<name>.key" of the PKI's directory. It is replaced when two thirds of its
// life are over, when the hosts change, and when the authority does. The key
// stays the same, since clients may pin it.
type Serving struct {
	pki   *PKI
	name  string
	hosts func() []string
	now   func() time.Time

	current atomic.Pointer[tls.Certificate]
	mu      sync.Mutex // one renewal at a time
}

// Serving returns a serving certificate that is current. hosts are the names
// and IP addresses that it is for.
func (p *PKI) Serving(name string, hosts func() []string, now func() time.Time) (*Serving, error) {
	s := &Serving{pki: p, name: name, hosts: hosts, now: now}
	if c, err := tls.LoadX509KeyPair(s.CertFile(), s.KeyFile()); err == nil { // else it is issued
		s.current.Store(&c)
	}
	_, err := s.Renew()
	return s, err
}

// CertFile is the path of the certificate chain.
func (s *Serving) CertFile() string { return s.pki.path(s.name + ".crt") }

// KeyFile is the path of the key.
func (s *Serving) KeyFile() string { return s.pki.path(s.name + ".key") }

// Certificate is the present certificate with its leaf.
func (s *Serving) Certificate() *tls.Certificate { return s.current.Load() }

// GetCertificate is what a tls.Config wants to have.
func (s *Serving) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.Certificate(), nil
}

// Renew issues the certificate again if it is not current.
func (s *Serving) Renew() (renewed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	hosts := slices.Compact(slices.Sorted(slices.Values(s.hosts())))
	if s.isCurrent(hosts, now) {
		return false, nil
	}
	key, err := s.key()
	if err != nil {
		return false, err
	}
	chain, err := s.pki.Server.Issue(servingTemplate(s.name, hosts, now), &key.PublicKey, now, servingValidity)
	if err != nil {
		return false, err
	}
	if err := s.pki.write(s.CertFile(), EncodeChain(chain), 0o600); err != nil {
		return false, err
	}
	c := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, cert := range chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	s.current.Store(c)
	return true, nil
}

func servingTemplate(name string, hosts []string, now time.Time) *x509.Certificate {
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		NotBefore:   now.Add(-servingBackdate),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	return tmpl
}

func (s *Serving) isCurrent(hosts []string, now time.Time) bool {
	c := s.current.Load()
	if c == nil {
		return false
	}
	have := slices.Clone(c.Leaf.DNSNames)
	for _, ip := range c.Leaf.IPAddresses {
		have = append(have, ip.String())
	}
	slices.Sort(have)
	issuer := s.pki.Server.newest()
	return slices.Equal(have, hosts) &&
		now.After(c.Leaf.NotBefore) && c.Leaf.NotAfter.Sub(now) > renewBefore &&
		c.Leaf.CheckSignatureFrom(issuer.cert) == nil && len(c.Certificate) == len(issuer.above)+2
}

// key returns the key that there is, in memory or in the file, else a new one.
func (s *Serving) key() (*ecdsa.PrivateKey, error) {
	if c := s.current.Load(); c != nil {
		if key, ok := c.PrivateKey.(*ecdsa.PrivateKey); ok {
			return key, nil
		}
	}
	if data, err := os.ReadFile(s.KeyFile()); err == nil {
		if key, err := DecodeKey(data); err == nil {
			return key, nil
		}
	}
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("generating a serving key: %w", err)
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, s.pki.write(s.KeyFile(), keyPEM, 0o600)
}

// KeepCurrent renews serving certificates as they need it, until ctx ends.
func KeepCurrent(ctx context.Context, log *slog.Logger, all ...*Serving) error {
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, s := range all {
				s.renewAndLog(log)
			}
		}
	}
}

func (s *Serving) renewAndLog(log *slog.Logger) {
	switch renewed, err := s.Renew(); {
	case err != nil:
		log.Error("renewing a serving certificate", "name", s.name, "error", err)
	case renewed:
		log.Info("serving certificate renewed", "name", s.name, "expires", s.Certificate().Leaf.NotAfter)
	}
}
