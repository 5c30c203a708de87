package apiserver

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"fleet.nationtech.io/fleet/pkg/pki"
)

// clientCAs are authorities that change while the server runs.
type clientCAs struct {
	// pem returns the authorities of now.
	pem func() []byte
	now func() time.Time

	mu     sync.Mutex // guards parsed
	parsed dynamiccertificates.CAContentProvider
}

const clientCAsName = "operator-authority"

// VerifyOptions is asked at each request; parsing is done at a change only.
func (c *clientCAs) VerifyOptions() (x509.VerifyOptions, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if data := c.pem(); c.parsed == nil || !bytes.Equal(data, c.parsed.CurrentCABundleContent()) {
		parsed, err := dynamiccertificates.NewStaticCAContent(clientCAsName, data)
		if err != nil {
			return x509.VerifyOptions{}, false
		}
		c.parsed = parsed
	}
	opts, ok := c.parsed.VerifyOptions()
	opts.CurrentTime = c.now()
	return opts, ok
}

// loopbackCertificate makes a certificate that only this process knows, for
// its own clients. It depends neither on the PKI, which may change under them,
// nor on the clock, which may be set.
func loopbackCertificate() (certPEM, keyPEM []byte, err error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: LoopbackHost}, DNSNames: []string{LoopbackHost},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = pki.EncodeKey(key)
	return pki.EncodeChain([]*x509.Certificate{{Raw: der}}), keyPEM, err
}
