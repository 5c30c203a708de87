package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

const (
	servingValidity = 365 * 24 * time.Hour
	// renewBefore is when a stored serving certificate is replaced at a start.
	renewBefore = servingValidity / 3

	operatorValidity = 365 * 24 * time.Hour
	deviceValidity   = 365 * 24 * time.Hour
)

// Pair names the files of a certificate chain and its key.
type Pair struct{ CertFile, KeyFile string }

// TLS reads the pair.
func (p Pair) TLS() (tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading a serving certificate: %w", err)
	}
	return c, nil
}

// Serving returns the serving pair "<name>" of dir for the given hosts (names
// and IP addresses). It issues the certificate at a first start, when the
// hosts changed and when less than a third of its life is left. The key stays
// the same across renewals.
func (p *PKI) Serving(dir, name string, hosts []string, now time.Time) (Pair, error) {
	pair := Pair{filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")}
	hosts = slices.Compact(slices.Sorted(slices.Values(hosts)))
	if p.servingIsCurrent(pair, hosts, now) {
		return pair, nil
	}
	key, err := servingKey(pair.KeyFile)
	if err != nil {
		return Pair{}, err
	}
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
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
	chain, err := p.Server.Issue(tmpl, &key.PublicKey, now, servingValidity)
	if err != nil {
		return Pair{}, err
	}
	return pair, atomicfile.Write(pair.CertFile, EncodeChain(chain), 0o600)
}

func (p *PKI) servingIsCurrent(pair Pair, hosts []string, now time.Time) bool {
	c, err := pair.TLS()
	if err != nil {
		return false
	}
	leaf := c.Leaf
	have := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		have = append(have, ip.String())
	}
	slices.Sort(have)
	return slices.Equal(have, hosts) && leaf.NotAfter.Sub(now) > renewBefore &&
		leaf.CheckSignatureFrom(p.Server.Cert) == nil
}

func servingKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err == nil {
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
	return key, atomicfile.Write(path, keyPEM, 0o600)
}

// IssueOperator returns a client certificate chain and key for a person: the
// common name is the user name, the organizations are the groups.
func (p *PKI) IssueOperator(user string, groups []string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := NewKey()
	if err != nil {
		return nil, nil, fmt.Errorf("generating a key for %q: %w", user, err)
	}
	chain, err := p.Operator.Issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, &key.PublicKey, now, operatorValidity)
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
	}, pub, now, deviceValidity)
}
