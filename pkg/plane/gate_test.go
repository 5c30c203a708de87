package plane_test

import (
	"crypto/x509"
	"errors"
	"net/url"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/plane"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func tombstones(t testing.TB) *tombstone.List {
	t.Helper()
	list, err := tombstone.Open(filepath.Join(t.TempDir(), "revoked-keys.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = list.Close() })
	return list
}

// A device that connects while the server starts waits, instead of being
// refused and backing off.
func TestConnectionsWaitAtTheGate(t *testing.T) {
	t.Parallel()
	uri, err := wire.DeviceURI("fleet", "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		readyAfter time.Duration
		err        error
	}{
		"ready in time": {9 * time.Second, nil},
		"never ready":   {time.Hour, plane.ErrNotReady},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := plane.NewGate("fleet", tombstones(t))
				ready := time.AfterFunc(tc.readyAfter, func() {
					r.Bind("edge-1", roster.Keys{Current: pki.Fingerprint([]byte("key"))})
					r.Open()
					r.Open() // twice is fine
				})
				defer ready.Stop()
				if _, err := r.AuthenticateDevice(&x509.Certificate{}, "a1", "192.0.2.1:1"); !errors.Is(err, roster.ErrNotDevice) {
					t.Errorf("who is no device waits: %v", err)
				}
				_, err := r.AuthenticateDevice(&x509.Certificate{RawSubjectPublicKeyInfo: []byte("key"), URIs: []*url.URL{uri}}, "a1", "192.0.2.1:1")
				if !errors.Is(err, tc.err) {
					t.Errorf("error is %v, want %v", err, tc.err)
				}
			})
		})
	}
}
