package enroll

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// check verifies that the reply gives this device a certificate for its own
// key, so that a mistake of the server shows at enrollment and not later.
func check(reply *wire.EnrollReply, req Request, root *x509.Certificate) (*Result, error) {
	leaf, rest, err := parseChain([]byte(reply.Certificate))
	if err != nil {
		return nil, fmt.Errorf("checking the certificate: %w", err)
	}
	public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(req.Key.Public()) {
		return nil, fmt.Errorf("checking the certificate: %w: it is for another key", ErrReply)
	}
	if err := verify(leaf, rest, root); err != nil {
		return nil, fmt.Errorf("checking the certificate: %w: %w", ErrReply, err)
	}
	device, err := deviceOf(leaf)
	if err != nil {
		return nil, fmt.Errorf("checking the certificate: %w: %w", ErrReply, err)
	}
	if device != req.Device {
		return nil, fmt.Errorf("checking the certificate: %w: it names device %q, not %q", ErrReply, device, req.Device)
	}
	if err := checkServers(reply.Servers); err != nil {
		return nil, err
	}
	return &Result{
		Device:      device,
		Certificate: reply.Certificate,
		Root:        string(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: root.Raw})),
		Servers:     reply.Servers,
	}, nil
}

func verify(leaf *x509.Certificate, rest []*x509.Certificate, root *x509.Certificate) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, c := range rest {
		intermediates.AddCert(c)
	}
	now := notBefore(root)()
	if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore // the device's clock is behind the server's
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
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
	if len(servers) == 0 {
		return fmt.Errorf("%w: it names no NATS server", ErrReply)
	}
	for _, s := range servers {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "tls" || u.Host == "" || u.User != nil {
			return fmt.Errorf("%w: %.200q is not a NATS URL of the form tls://HOST:4222", ErrReply, s)
		}
	}
	return nil
}

const pemCertificate = "CERTIFICATE"

func parseCertificate(data []byte) (*x509.Certificate, error) {
	leaf, _, err := parseChain(data)
	return leaf, err
}

// parseChain decodes PEM certificates: the first and the others.
func parseChain(data []byte) (first *x509.Certificate, rest []*x509.Certificate, err error) {
	var certs []*x509.Certificate
	for block, tail := pem.Decode(data); block != nil; block, tail = pem.Decode(tail) {
		if block.Type != pemCertificate {
			return nil, nil, fmt.Errorf("%w: a PEM block is not a certificate", ErrReply)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: a certificate is malformed", ErrReply)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, nil, fmt.Errorf("%w: no certificate", ErrReply)
	}
	return certs[0], certs[1:], nil
}
