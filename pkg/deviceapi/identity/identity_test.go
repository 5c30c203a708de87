package identity_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
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
	r.Bind("edge-1", identity.Keys{Current: replaced})
	r.Bind("edge-1", identity.Keys{Current: first})
	r.Bind("edge-2", identity.Keys{Current: revoked})
	r.Bind("edge-3", identity.Keys{Current: gone})
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
			got, err := r.AuthenticateDevice(&x509.Certificate{RawSubjectPublicKeyInfo: raw, URIs: uris(t, tc.uris...)}, "a1", "192.0.2.1:1")
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
					r.Bind("edge-1", identity.Keys{Current: pki.Fingerprint([]byte("key"))})
					r.SetReady()
				})
				defer ready.Stop()
				_, err := r.AuthenticateDevice(&x509.Certificate{RawSubjectPublicKeyInfo: []byte("key"), URIs: uris(t, "spiffe://fleet/device/edge-1")}, "a1", "192.0.2.1:1")
				if !errors.Is(err, tc.err) {
					t.Errorf("error is %v, want %v", err, tc.err)
				}
			})
		})
	}
}

// told records what an observer is told.
type told struct{ strangers, retired []string }

func (o *told) Stranger(device, fingerprint string, expires time.Time) {
	o.strangers = append(o.strangers, fmt.Sprint(device, " ", fingerprint, " ", expires.Unix()))
}

func (o *told) Retired(device string, s identity.Shown) {
	o.retired = append(o.retired, fmt.Sprint(device, " ", s.Fingerprint, " ", s.Session, " ", s.Address))
}

// Both keys of a renewal are good, however often they connect, until somebody says
// that the device has proven itself with the new one.
func TestBothKeysOfARenewalAreGoodUntilTheNewOneIsProven(t *testing.T) {
	t.Parallel()
	list := tombstones(t)
	r := identity.NewRegistry("fleet", list)
	r.SetReady()
	o := &told{}
	r.Observe(o)
	before, after := pki.Fingerprint([]byte("before")), pki.Fingerprint([]byte("after"))
	connect := func(key string) error {
		_, err := r.AuthenticateDevice(&x509.Certificate{
			RawSubjectPublicKeyInfo: []byte(key), URIs: uris(t, "spiffe://fleet/device/edge-1"), NotAfter: time.Unix(77, 0),
		}, "a1", "192.0.2.1:1")
		return err
	}
	r.Bind("edge-1", identity.Keys{Current: before, Next: after})
	for _, key := range []string{"before", "after", "before", "after"} {
		if err := connect(key); err != nil {
			t.Errorf("key %q is refused: %v", key, err)
		}
	}
	if r.Use("edge-1", before) || r.Use("edge-2", after) {
		t.Error("a key that is no next one counts as a renewal")
	}
	if !r.Use("edge-1", after) || r.Use("edge-1", after) {
		t.Error("the next key does not count as a renewal, or twice")
	}
	if err := connect("before"); !errors.Is(err, identity.ErrRetired) {
		t.Errorf("the previous key: %v", err)
	}
	if want := []string{"edge-1 " + before + " a1 192.0.2.1:1"}; !slices.Equal(o.retired, want) {
		t.Errorf("told of retired keys %q, want %q", o.retired, want)
	}
	if err := connect("after"); err != nil {
		t.Errorf("the new key is refused: %v", err)
	}
	if len(o.strangers) > 0 {
		t.Errorf("strangers %q", o.strangers)
	}
	if err := connect("another"); !errors.Is(err, identity.ErrOtherKey) {
		t.Errorf("another key: %v", err)
	}
	if want := []string{"edge-1 " + pki.Fingerprint([]byte("another")) + " 77"}; !slices.Equal(o.strangers, want) {
		t.Errorf("strangers %q, want %q", o.strangers, want)
	}
}

// A retired key is told of for as long as its tombstone lasts, also after a restart
// and after the restore of a store that knows it as the device's own. Keys of devices
// that were thrown out say nothing of a copy.
func TestRetiredKeysAreToldOf(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list")
	renewed, revoked := pki.Fingerprint([]byte("renewed")), pki.Fingerprint([]byte("revoked"))
	list, err := identity.OpenTombstones(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []identity.Tombstone{{Fingerprint: renewed, Device: "edge-1", Reason: identity.ReasonRenewed}, {Fingerprint: revoked, Device: "edge-1", Reason: "not accepted"}} {
		if err := list.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	list = reopen(t, list, path)
	r := identity.NewRegistry("fleet", list)
	r.SetReady()
	o := &told{}
	r.Observe(o)
	connect := func(key string) error {
		_, err := r.AuthenticateDevice(&x509.Certificate{RawSubjectPublicKeyInfo: []byte(key), URIs: uris(t, "spiffe://fleet/device/edge-1")}, "a1", "192.0.2.1:1")
		return err
	}
	if err := connect("renewed"); !errors.Is(err, identity.ErrRetired) || len(o.retired) != 0 {
		t.Errorf("of a device that is gone: %v, told %q", err, o.retired)
	}
	r.Bind("edge-1", identity.Keys{Current: renewed})
	if err := connect("renewed"); !errors.Is(err, identity.ErrRetired) || len(o.retired) != 1 {
		t.Errorf("from a backup: %v, told %q", err, o.retired)
	}
	if err := connect("revoked"); !errors.Is(err, identity.ErrRevoked) || len(o.retired) != 1 {
		t.Errorf("a key that an operator threw out: %v, told %q", err, o.retired)
	}
	r.Revoke("edge-1")
	if err := connect("renewed"); !errors.Is(err, identity.ErrRevoked) || len(o.retired) != 1 {
		t.Errorf("of a device that was revoked: %v, told %q", err, o.retired)
	}
}

func TestRevokedIsOutAtOnceAndUntilUnbound(t *testing.T) {
	t.Parallel()
	r := identity.NewRegistry("fleet", tombstones(t))
	keys := identity.Keys{Current: pki.Fingerprint([]byte("key"))}
	r.Bind("edge-1", keys)
	if err := r.Check("edge-1", keys.Current); err != nil {
		t.Fatal(err)
	}
	r.Revoke("edge-1")
	r.Bind("edge-1", keys) // from a list that is older than the revocation
	if err := r.Check("edge-1", keys.Current); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("error is %v", err)
	}
	r.Unbind("edge-1")
	if err := r.Check("edge-1", keys.Current); !errors.Is(err, identity.ErrUnknown) {
		t.Errorf("error is %v", err)
	}
}

// Who watches the objects is behind who changes them.
func TestOlderKeysAreIgnored(t *testing.T) {
	t.Parallel()
	r := identity.NewRegistry("fleet", tombstones(t))
	for _, step := range []struct {
		what    string
		keys    identity.Keys
		version identity.Version
		want    []string
	}{
		{"enrolled", identity.Keys{Current: "a"}, identity.Version{UID: "1", Generation: 3}, []string{"a"}},
		{"renewed", identity.Keys{Current: "a", Next: "b"}, identity.Version{UID: "1", Generation: 4}, []string{"b", "a"}},
		{"seen late", identity.Keys{Current: "a"}, identity.Version{UID: "1", Generation: 3}, []string{"b", "a"}},
		{"seen again", identity.Keys{Current: "a", Next: "b"}, identity.Version{UID: "1", Generation: 4}, []string{"b", "a"}},
		{"another object", identity.Keys{Current: "c"}, identity.Version{UID: "2", Generation: 1}, []string{"c"}},
	} {
		step.keys.Version = step.version
		r.Bind("edge-1", step.keys)
		if got := r.Keys("edge-1"); !slices.Equal(got, step.want) {
			t.Errorf("%s: keys are %q, want %q", step.what, got, step.want)
		}
	}
}

func TestKeysOfADevice(t *testing.T) {
	t.Parallel()
	list := tombstones(t)
	r := identity.NewRegistry("fleet", list)
	want := func(what string, want ...string) {
		t.Helper()
		if got := r.Keys("edge-1"); !slices.Equal(got, want) {
			t.Errorf("%s: keys are %q, want %q", what, got, want)
		}
	}
	want("unknown")
	r.Bind("edge-1", identity.Keys{Current: "a"})
	want("bound", "a")
	r.Bind("edge-1", identity.Keys{Current: "a", Next: "b"})
	want("renewed", "b", "a")
	if err := list.Add(identity.Tombstone{Fingerprint: "b", Device: "edge-1", Reason: "revoked"}); err != nil {
		t.Fatal(err)
	}
	want("one is out", "a")
	r.Revoke("edge-1")
	want("revoked")
}
