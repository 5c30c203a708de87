package enroll_test

import (
	"crypto/x509"
	"net/http"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// renew asks for a renewal with a certificate, and returns why that is refused.
func renew(t *testing.T, h *enroll.Handler, chain []*x509.Certificate) wire.RefusalCode {
	t.Helper()
	status, reply := ask(h, http.MethodPost, wire.PathRenew, "{}", chain)
	if reply.Error == nil {
		t.Fatalf("answer %d %+v is no refusal", status, reply)
	}
	return reply.Error.Code
}

// A thief may have many certificates that are good no more, and a device makes
// a new key for each renewal. Neither uses up what others renew with.
func TestOldCertificatesTakeNothingFromRenewals(t *testing.T) {
	t.Parallel()
	h, authorities := newHandler(t)
	bind := func(device string) []*x509.Certificate {
		chain := chainOf(t, authorities, device)
		h.Service.Roster.Bind(device, roster.Keys{Current: pki.Fingerprint(chain[0].RawSubjectPublicKeyInfo)})
		return chain
	}
	const many = 2 * enroll.RenewBurst
	seen := map[wire.RefusalCode]int{}
	for range many / 4 {
		old, greedy := chainOf(t, authorities, "edge-1"), bind("edge-2")
		for range 2 {
			seen[renew(t, h, old)]++
			seen[renew(t, h, greedy)]++
		}
	}
	if seen[wire.RefusedRateLimited] < many/2 {
		t.Errorf("the flood is answered %v", seen)
	}
	// Its request is empty: what matters is that it is looked at.
	for device, want := range map[string]wire.RefusalCode{"edge-1": wire.RefusedBadRequest, "edge-3": wire.RefusedBadRequest, "edge-2": wire.RefusedRateLimited} {
		if got := renew(t, h, bind(device)); got != want {
			t.Errorf("the renewal of %s is answered %s, want %s", device, got, want)
		}
	}
}

// chainOf makes a certificate of a device for a new key.
func chainOf(t *testing.T, authorities *pki.PKI, device string) []*x509.Certificate {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	uri, err := wire.DeviceURI("fleet", device)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := authorities.IssueDevice(device, uri, &key.PublicKey, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return chain
}
