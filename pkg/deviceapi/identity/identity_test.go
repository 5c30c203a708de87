package identity_test

import (
	"crypto/x509"
	"errors"
	"net/url"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/deviceapi/identity"
	"fleet.nationtech.io/fleet/pkg/pki"
)

func tombstones(t testing.TB) *identity.Tombstones {
	t.Helper()
	list, err := identity.OpenTombstones(filepath.Join(t.TempDir(), "revoked-keys.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := list.Close(); err != nil {
			t.Error(err)
		}
	})
	return list
}

func uris(t testing.TB, texts ...string) []*url.URL {
	t.Helper()
	var list []*url.URL
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, u)
	}
	return list
}

func TestRegistryAdmitsBoundKeysOnly(t *testing.T) {
	t.Parallel()
	list := tombstones(t)
	r := identity.NewRegistry("fleet", list)
	r.SetReady()
	r.SetReady() // twice is fine
	key := func(name string) (raw []byte, fingerprint string) { return []byte(name), pki.Fingerprint([]byte(name)) }
	_, first := key("first")
	_, replaced := key("replaced")
	_, revoked := key("revoked")
	_, gone := key("gone")
	r.Bind("edge-1", replaced)
	r.Bind("edge-1", first)
	r.Bind("edge-2", revoked)
	r.Bind("edge-3", gone)
	r.Unbind("edge-3")
	if err := list.Add(identity.Tombstone{Fingerprint: revoked, Device: "edge-2", Reason: "revoked"}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		key  string
		uris []string
		want string
		err  error
	}{
		"bound":                {"first", []string{"spiffe://fleet/device/edge-1"}, "edge-1", nil},
		"the key before":       {"replaced", []string{"spiffe://fleet/device/edge-1"}, "", identity.ErrOtherKey},
		"a key of another":     {"first", []string{"spiffe://fleet/device/edge-2"}, "", identity.ErrOtherKey},
		"revoked":              {"revoked", []string{"spiffe://fleet/device/edge-2"}, "", identity.ErrRevoked},
		"revoked, other name":  {"revoked", []string{"spiffe://fleet/device/edge-1"}, "", identity.ErrRevoked},
		"unbound":              {"gone", []string{"spiffe://fleet/device/edge-3"}, "", identity.ErrUnknown},
		"never seen":           {"first", []string{"spiffe://fleet/device/edge-9"}, "", identity.ErrUnknown},
		"no name":              {"first", nil, "", identity.ErrNotDevice},
		"two names":            {"first", []string{"spiffe://fleet/device/edge-1", "spiffe://fleet/device/edge-1"}, "", identity.ErrNotDevice},
		"of another fleet":     {"first", []string{"spiffe://other/device/edge-1"}, "", identity.ErrNotDevice},
		"of another scheme":    {"first", []string{"https://fleet/device/edge-1"}, "", identity.ErrNotDevice},
		"of an operator":       {"first", []string{"spiffe://fleet/operator/edge-1"}, "", identity.ErrNotDevice},
		"name with a wildcard": {"first", []string{"spiffe://fleet/device/*"}, "", identity.ErrNotDevice},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, _ := key(tc.key)
			got, err := r.AuthenticateDevice(&x509.Certificate{RawSubjectPublicKeyInfo: raw, URIs: uris(t, tc.uris...)})
			if got != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("device %q, error %v, want %q, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

// A device that connects while the server starts waits, instead of being
// refused and backing off.
func TestConnectionsWaitForTheRegistry(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		readyAfter time.Duration
		err        error
	}{
		"ready in time": {9 * time.Second, nil},
		"never ready":   {time.Hour, identity.ErrNotReady},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := identity.NewRegistry("fleet", tombstones(t))
				ready := time.AfterFunc(tc.readyAfter, func() {
					r.Bind("edge-1", pki.Fingerprint([]byte("key")))
					r.SetReady()
				})
				defer ready.Stop()
				_, err := r.AuthenticateDevice(&x509.Certificate{RawSubjectPublicKeyInfo: []byte("key"), URIs: uris(t, "spiffe://fleet/device/edge-1")})
				if !errors.Is(err, tc.err) {
					t.Errorf("error is %v, want %v", err, tc.err)
				}
			})
		})
	}
}
