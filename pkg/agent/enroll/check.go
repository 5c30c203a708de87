package enroll

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// checkEnrolled verifies what enrollment brought. root is the one that the token
// vouches for.
func checkEnrolled(reply *wire.EnrollReply, req Request, root *x509.Certificate, now time.Time) (*Result, error) {
	roots := []*x509.Certificate{root}
	if reply.Root != "" {
		more, err := parseCertificates([]byte(reply.Root))
		if err != nil {
			return nil, fmt.Errorf("checking the root certificates: %w", err)
		}
		if !slices.ContainsFunc(more, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo)
		}) {
			return nil, fmt.Errorf("checking the root certificates: %w: the one that the token names is not among them", ErrReply)
		}
		roots = more
	}
	if err := checkCertificate(reply.Certificate, req.Device, req.Key, roots, now); err != nil {
		return nil, fmt.Errorf("checking the certificate: %w", err)
	}
	if len(reply.Servers) == 0 {
		return nil, fmt.Errorf("%w: it names no NATS server", ErrReply)
	}
	if err := checkServers(reply.Servers); err != nil {
		return nil, err
	}
	return &Result{Device: req.Device, Certificate: reply.Certificate, Root: encodeRoots(roots), Servers: reply.Servers}, nil
}

// checkCertificate verifies that a certificate is one of this device for its own
// key, so that a mistake of the server shows now and not later.
func checkCertificate(text, want string, key crypto.Signer, roots []*x509.Certificate, now time.Time) error {
	chain, err := parseCertificates([]byte(text))
	if err != nil {
		return err
	}
	leaf := chain[0]
	public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return fmt.Errorf("%w: it is for another key", ErrReply)
	}
	if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore // the device's clock is behind the server's
	}
	if err := verify(chain, roots, now, x509.ExtKeyUsageClientAuth); err != nil {
		return fmt.Errorf("%w: %w", ErrReply, err)
	}
	device, err := deviceOf(leaf)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrReply, err)
	}
	if device != want {
		return fmt.Errorf("%w: it names device %q, not %q", ErrReply, device, want)
	}
	return nil
}

// verify verifies a chain, its own certificate first.
func verify(chain, roots []*x509.Certificate, now time.Time, usage x509.ExtKeyUsage) error {
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: pool(roots), Intermediates: pool(chain[1:]), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	return err
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

func encodeRoots(roots []*x509.Certificate) string {
	var b strings.Builder
	for _, root := range roots {
		_ = pem.Encode(&b, &pem.Block{Type: pemCertificate, Bytes: root.Raw}) // a Builder takes everything
	}
	return b.String()
}

// deviceOf returns the device that a certificate names with its only URI.
func deviceOf(leaf *x509.Certificate) (string, error) {
	if len(leaf.URIs) != 1 {
		return "", wire.ErrIdentity
	}
	_, device, err := wire.ParseDeviceURI(leaf.URIs[0])
	return device, err
}

func checkServers(servers []string) error {
	for _, s := range servers {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "tls" || u.Host == "" || u.User != nil {
			return fmt.Errorf("%w: %.200q is not a NATS URL of the form tls://HOST:4222", ErrReply, s)
		}
	}
	return nil
}

const pemCertificate = "CERTIFICATE"

// parseCertificates decodes PEM certificates, of which there is at least one.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, tail := pem.Decode(data); block != nil; block, tail = pem.Decode(tail) {
		if block.Type != pemCertificate {
			return nil, fmt.Errorf("%w: a PEM block is not a certificate", ErrReply)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: a certificate is malformed", ErrReply)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%w: no certificate", ErrReply)
	}
	return certs, nil
}
