package enrollment_test

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/controllers/enrollment"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// FuzzParseRequest covers everything that a stranger has the listener read
// before it looks for a token. Seeds are in testdata too.
func FuzzParseRequest(f *testing.F) {
	token := wire.NewToken(wire.Digest{7})
	valid := func(device, request, hardware string) []byte {
		data, err := json.Marshal(wire.EnrollRequest{Token: token.Encode(), Device: device, CSR: request, HardwareID: hardware})
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	f.Add(valid("edge-1", csr(f), ""))
	f.Add(valid("edge-1", csr(f), strings.Repeat("ab", 32)))
	f.Add(valid("Edge.*", damage(csr(f)), "x"))
	f.Add([]byte(`{"token":"FLT1.x","device":"edge","csr":"-----BEGIN CERTIFICATE REQUEST-----"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := wire.Decode[wire.EnrollRequest](body, wire.MaxEnrollRequest)
		if err != nil {
			return
		}
		token, err := wire.ParseToken(req.Token)
		if err != nil {
			return
		}
		a, err := enrollment.Parse(req, token, "192.0.2.1")
		if err != nil {
			r, ok := errors.AsType[*wire.Refusal](err)
			if !ok || r.Code != wire.RefusedBadRequest || len(r.Message) > 1<<10 {
				t.Errorf("%v is no short refusal", err)
			}
			return
		}
		if wire.ValidateDevice(a.Device) != nil || !wire.ValidHash(a.Fingerprint()) {
			t.Errorf("accepted device %q with key %q", a.Device, a.Fingerprint())
		}
	})
}

// csr is a certificate request in PEM for a new key.
func csr(t testing.TB) string {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// damage changes what a certificate request is signed over.
func damage(csr string) string {
	block, _ := pem.Decode([]byte(csr))
	block.Bytes[len(block.Bytes)-1] ^= 1
	return string(pem.EncodeToMemory(block))
}
