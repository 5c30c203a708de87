package enroll_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
)

// FuzzRoots parses what anybody on the way may give in place of the server's
// roots: nothing vouches for it yet. What is accepted is what is kept, and each
// of it is what TLS trusts afterwards. A seed with two roots is in testdata.
func FuzzRoots(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("<html>not here</html>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		checkRoots(t, data)
		// The same within PEM: what reads certificates is reached at once.
		checkRoots(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: data}))
	})
}

func checkRoots(t *testing.T, data []byte) {
	t.Helper()
	roots, err := enroll.ParseCertificates(data)
	if err != nil {
		if !errors.Is(err, enroll.ErrReply) || len(err.Error()) > 1<<10 || len(roots) > 0 {
			t.Errorf("%d roots and the error %v", len(roots), err)
		}
		return
	}
	if len(roots) == 0 {
		t.Error("no roots, and no error")
	}
	kept := []byte(enroll.EncodeRoots(roots))
	again, err := enroll.ParseCertificates(kept)
	if err != nil || !slices.EqualFunc(roots, again, (*x509.Certificate).Equal) {
		t.Errorf("%d roots are kept as %d, %v", len(roots), len(again), err)
	}
	pool, one := x509.NewCertPool(), x509.NewCertPool()
	pool.AppendCertsFromPEM(kept)
	for _, root := range roots {
		one.AddCert(root)
	}
	if !pool.Equal(one) {
		t.Errorf("TLS trusts something else than the %d roots", len(roots))
	}
}
