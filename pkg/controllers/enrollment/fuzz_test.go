package enrollment_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/controllers/enrollment"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
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
	f.Add(valid("edge-1", pkitest.CSR(f), ""))
	f.Add(valid("edge-1", pkitest.CSR(f), strings.Repeat("ab", 32)))
	f.Add(valid("Edge.*", pkitest.Damage(pkitest.CSR(f)), "x"))
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
