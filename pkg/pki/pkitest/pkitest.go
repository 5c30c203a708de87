// Package pkitest makes certificate requests for tests.
package pkitest

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"fleet.nationtech.io/fleet/pkg/pki"
)

// CSR is a certificate request for a new key, in PEM.
func CSR(t testing.TB) string {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return CSROf(t, key)
}

// CSROf is a certificate request for a key, in PEM.
func CSROf(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// Damage changes what a certificate request is signed over.
func Damage(csr string) string {
	block, _ := pem.Decode([]byte(csr))
	block.Bytes[len(block.Bytes)-1] ^= 1
	return string(pem.EncodeToMemory(block))
}
