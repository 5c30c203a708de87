package roster_test

import (
	"crypto/x509"
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/pki"
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
	t.Cleanup(func() {
		if err := list.Close(); err != nil {
			t.Error(err)
		}
	})
	return list
}

// newStanding returns a roster with a real list of tombstones.
func newStanding(list *tombstone.List) *rostertest {
	r := newRoster()
	r.Roster = roster.New(roster.Config{Fleet: "fleet", Revoked: list, Outside: outside{r}, Now: func() time.Time { return r.now }})
	return r
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
	r := newStanding(list)
	key := func(name string) (raw []byte, fingerprint string) { return []byte(name), pki.Fingerprint([]byte(name)) }
	_, first := key("first")
	_, replaced := key("replaced")
	_, revoked := key("revoked")
	_, gone := key("gone")
	r.Bind("edge-1", roster.Keys{Current: replaced})
	r.Bind("edge-1", roster.Keys{Current: first})
	r.Bind("edge-2", roster.Keys{Current: revoked})
	r.Bind("edge-3", roster.Keys{Current: gone})
	r.Unbind("edge-3")
	if err := list.Add(tombstone.Entry{Fingerprint: revoked, Device: "edge-2", Reason: "revoked"}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		key  string
		uris []string
		want string
		err  error
	}{
		"bound":                {"first", []string{"spiffe://fleet/device/edge-1"}, "edge-1", nil},
		"the key before":       {"replaced", []string{"spiffe://fleet/device/edge-1"}, "", roster.ErrOtherKey},
		"a key of another":     {"first", []string{"spiffe://fleet/device/edge-2"}, "", roster.ErrOtherKey},
		"revoked":              {"revoked", []string{"spiffe://fleet/device/edge-2"}, "", roster.ErrRevoked},
		"revoked, other name":  {"revoked", []string{"spiffe://fleet/device/edge-1"}, "", roster.ErrRevoked},
		"unbound":              {"gone", []string{"spiffe://fleet/device/edge-3"}, "", roster.ErrUnknown},
		"never seen":           {"first", []string{"spiffe://fleet/device/edge-9"}, "", roster.ErrUnknown},
		"no name":              {"first", nil, "", roster.ErrNotDevice},
		"two names":            {"first", []string{"spiffe://fleet/device/edge-1", "spiffe://fleet/device/edge-1"}, "", roster.ErrNotDevice},
		"of another fleet":     {"first", []string{"spiffe://other/device/edge-1"}, "", roster.ErrNotDevice},
		"of another scheme":    {"first", []string{"https://fleet/device/edge-1"}, "", roster.ErrNotDevice},
		"of an operator":       {"first", []string{"spiffe://fleet/operator/edge-1"}, "", roster.ErrNotDevice},
		"name with a wildcard": {"first", []string{"spiffe://fleet/device/*"}, "", roster.ErrNotDevice},
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

// Both keys of a renewal are good, however often they connect, until the device
// has proven itself with the new one.
func TestBothKeysOfARenewalAreGoodUntilTheNewOneIsProven(t *testing.T) {
	t.Parallel()
	list := tombstones(t)
	r := newStanding(list)
	before, after := pki.Fingerprint([]byte("before")), pki.Fingerprint([]byte("after"))
	connect := func(key string) error {
		_, err := r.AuthenticateDevice(&x509.Certificate{
			RawSubjectPublicKeyInfo: []byte(key), URIs: uris(t, "spiffe://fleet/device/edge-1"), NotAfter: time.Unix(77, 0),
		}, "a1", "192.0.2.1:1")
		return err
	}
	r.Bind("edge-1", roster.Keys{Current: before, Next: after})
	for _, key := range []string{"before", "after", "before", "after"} {
		if err := connect(key); err != nil {
			t.Errorf("key %q is refused: %v", key, err)
		}
	}
	prove := func(id uint64, session, key string) {
		t.Helper()
		if _, err := r.Connected("edge-1", roster.Connection{ID: id, Session: session, Proof: roster.Proof{Key: key}}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Snapshot("edge-1", session, roster.Claim{Epoch: "e1"}); err != nil {
			t.Fatal(err)
		}
	}
	prove(1, "b2", before)
	if err := connect("after"); err != nil || len(r.drops()) > 0 {
		t.Errorf("a key that is no next one counts as a renewal: %v", err)
	}
	r.Disconnected(1)
	prove(2, "c3", before)
	prove(3, "c3", after)
	if dropped := r.drops(); !slices.Equal(dropped, []uint64{2}) {
		t.Errorf("dropped are %v, want the connection with the previous key", dropped)
	}
	r.Bind("edge-1", roster.Keys{Current: before, Next: after}) // from an object that does not say so yet
	if err := connect("before"); !errors.Is(err, roster.ErrRetired) {
		t.Errorf("the previous key: %v", err)
	}
	claimants := r.Claimants("edge-1")
	if len(claimants) != 2 || claimants[1].Session != "a1" || claimants[1].Proof != (roster.Proof{Key: before, Address: "192.0.2.1:1"}) || r.Record("edge-1").Suspicion != roster.RetiredKey {
		t.Errorf("claimants %+v", claimants)
	}
	if err := connect("after"); err != nil {
		t.Errorf("the new key is refused: %v", err)
	}
	if len(r.strangers) > 0 {
		t.Errorf("strangers %q", r.strangers)
	}
	if err := connect("another"); !errors.Is(err, roster.ErrOtherKey) {
		t.Errorf("another key: %v", err)
	}
	if want := []string{"edge-1 " + pki.Fingerprint([]byte("another")) + " 77"}; !slices.Equal(r.strangers, want) {
		t.Errorf("strangers %q, want %q", r.strangers, want)
	}
}

// A retired key is told of for as long as its tombstone lasts, also after a restart
// and after the restore of a store that knows it as the device's own. Keys of devices
// that were revoked say nothing of a copy.
func TestRetiredKeysAreToldOf(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list")
	renewed, revoked := pki.Fingerprint([]byte("renewed")), pki.Fingerprint([]byte("revoked"))
	list, err := tombstone.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []tombstone.Entry{{Fingerprint: renewed, Device: "edge-1", Reason: tombstone.ReasonRenewed}, {Fingerprint: revoked, Device: "edge-1", Reason: "not accepted"}} {
		if err := list.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := list.Close(); err != nil {
		t.Fatal(err)
	}
	if list, err = tombstone.Open(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = list.Close() })
	r := newStanding(list)
	connect := func(key string) error {
		_, err := r.AuthenticateDevice(&x509.Certificate{RawSubjectPublicKeyInfo: []byte(key), URIs: uris(t, "spiffe://fleet/device/edge-1")}, "a1", "192.0.2.1:1")
		return err
	}
	told := func() int { return len(r.Claimants("edge-1")) }
	if err := connect("renewed"); !errors.Is(err, roster.ErrRetired) || told() != 0 {
		t.Errorf("of a device that is gone: %v, told %d times", err, told())
	}
	r.Bind("edge-1", roster.Keys{Current: renewed})
	if err := connect("renewed"); !errors.Is(err, roster.ErrRetired) || told() != 1 {
		t.Errorf("from a backup: %v, told %d times", err, told())
	}
	if err := connect("revoked"); !errors.Is(err, roster.ErrRevoked) || told() != 1 {
		t.Errorf("a key that an operator threw out: %v, told %d times", err, told())
	}
	r.Revoke("edge-1", "")
	if err := connect("renewed"); !errors.Is(err, roster.ErrRevoked) || told() != 1 {
		t.Errorf("of a device that was revoked: %v, told %d times", err, told())
	}
}

func TestRevokedIsOutAtOnceAndUntilUnbound(t *testing.T) {
	t.Parallel()
	r := newStanding(tombstones(t))
	keys := roster.Keys{Current: pki.Fingerprint([]byte("key"))}
	r.Bind("edge-1", keys)
	if err := r.Check("edge-1", keys.Current); err != nil {
		t.Fatal(err)
	}
	r.Revoke("edge-1", "")
	r.Bind("edge-1", keys) // from a list that is older than the revocation
	if err := r.Check("edge-1", keys.Current); !errors.Is(err, roster.ErrRevoked) {
		t.Errorf("error is %v", err)
	}
	r.Unbind("edge-1")
	if err := r.Check("edge-1", keys.Current); !errors.Is(err, roster.ErrUnknown) {
		t.Errorf("error is %v", err)
	}
}

// Who watches the objects is behind who changes them.
func TestOlderKeysAreIgnored(t *testing.T) {
	t.Parallel()
	r := newStanding(tombstones(t))
	for _, step := range []struct {
		what    string
		keys    roster.Keys
		version roster.Version
		want    []string
	}{
		{"enrolled", roster.Keys{Current: "a"}, roster.Version{UID: "1", Generation: 3}, []string{"a"}},
		{"renewed", roster.Keys{Current: "a", Next: "b"}, roster.Version{UID: "1", Generation: 4}, []string{"b", "a"}},
		{"seen late", roster.Keys{Current: "a"}, roster.Version{UID: "1", Generation: 3}, []string{"b", "a"}},
		{"seen again", roster.Keys{Current: "a", Next: "b"}, roster.Version{UID: "1", Generation: 4}, []string{"b", "a"}},
		{"another object", roster.Keys{Current: "c"}, roster.Version{UID: "2", Generation: 1}, []string{"c"}},
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
	r := newStanding(list)
	want := func(what string, want ...string) {
		t.Helper()
		if got := r.Keys("edge-1"); !slices.Equal(got, want) {
			t.Errorf("%s: keys are %q, want %q", what, got, want)
		}
	}
	want("unknown")
	r.Bind("edge-1", roster.Keys{Current: "a"})
	want("bound", "a")
	r.Bind("edge-1", roster.Keys{Current: "a", Next: "b"})
	want("renewed", "b", "a")
	if err := list.Add(tombstone.Entry{Fingerprint: "b", Device: "edge-1", Reason: "revoked"}); err != nil {
		t.Fatal(err)
	}
	want("one is out", "a")
	r.Revoke("edge-1", "")
	want("revoked")
}

// What is known of a Device later than its keys were bound forgets nothing.
func TestUnbindAtAnOlderVersion(t *testing.T) {
	t.Parallel()
	registry, key := newRoster(), "k1"
	registry.Bind("edge-1", roster.Keys{Current: key, Version: roster.Version{UID: "u", Generation: 2}})
	registry.UnbindAt("edge-1", roster.Version{UID: "u", Generation: 1})
	if err := registry.Check("edge-1", key); err != nil {
		t.Errorf("a device that has just enrolled: %v", err)
	}
	registry.UnbindAt("edge-1", roster.Version{UID: "u", Generation: 3})
	if err := registry.Check("edge-1", key); !errors.Is(err, roster.ErrUnknown) {
		t.Errorf("a device whose keys were taken away: %v", err)
	}
}

// Who learns late of an older version of a Device whose keys were taken away brings none
// back; a newer version does, and another object of that name.
func TestLateBindAfterUnbind(t *testing.T) {
	t.Parallel()
	version := func(generation int64) roster.Version { return roster.Version{UID: "u", Generation: generation} }
	for what, tc := range map[string]struct {
		unbind func(r *rostertest)
		late   int64
	}{
		"keys taken away": {func(r *rostertest) { r.UnbindAt("edge-1", version(5)) }, 4},
		"let back in":     {func(r *rostertest) { r.Unbind("edge-1") }, 3},
	} {
		r := newRoster()
		r.Bind("edge-1", roster.Keys{Current: "k1", Version: version(4)})
		tc.unbind(r)
		r.Bind("edge-1", roster.Keys{Current: "k1", Next: "k2", Version: version(tc.late)})
		for _, key := range []string{"k1", "k2"} {
			if err := r.Check("edge-1", key); !errors.Is(err, roster.ErrUnknown) {
				t.Errorf("%s: a late version lets key %s in: %v", what, key, err)
			}
		}
		r.Bind("edge-1", roster.Keys{Current: "k3", Version: version(6)})
		if err := r.Check("edge-1", "k3"); err != nil {
			t.Errorf("%s: the next version: %v", what, err)
		}
		r.Bind("edge-1", roster.Keys{Current: "k4", Version: roster.Version{UID: "v", Generation: 1}})
		if err := r.Check("edge-1", "k4"); err != nil {
			t.Errorf("%s: another object: %v", what, err)
		}
	}
}

// An operator may accept the session with the previous key just after another has
// proven itself with the next one: that key is good again, and the other is not.
func TestPreviousKeyThatIsKept(t *testing.T) {
	t.Parallel()
	r := newRoster()
	version := func(generation int64) roster.Version { return roster.Version{UID: "u", Generation: generation} }
	r.Bind("edge-1", roster.Keys{Current: "k1", Next: "k2", Version: version(1)})
	r.connect(t, "edge-1", 1, "a", "k2")
	if _, err := r.Snapshot("edge-1", "a", roster.Claim{Epoch: "e1"}); err != nil {
		t.Fatal(err)
	}
	r.Bind("edge-1", roster.Keys{Current: "k1", Next: "k2", Version: version(1)}) // the object does not say so yet
	if err := r.Check("edge-1", "k1"); !errors.Is(err, roster.ErrRetired) {
		t.Errorf("the previous key: %v", err)
	}
	r.Bind("edge-1", roster.Keys{Current: "k1", Version: version(2)})
	if err := r.Check("edge-1", "k1"); err != nil {
		t.Errorf("the key that an operator accepted: %v", err)
	}
	if err := r.Check("edge-1", "k2"); err == nil {
		t.Error("the other key is good")
	}
}

// The previous key is still refused when a device's keys are taken away and given back
// before its object has the next one as the only one.
func TestUsedKeyOutlivesUnbind(t *testing.T) {
	t.Parallel()
	for what, unbind := range map[string]func(r *rostertest){
		"let back in":     func(r *rostertest) { r.Unbind("edge-1") },
		"keys taken away": func(r *rostertest) { r.UnbindAt("edge-1", roster.Version{UID: "u", Generation: 2}) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRoster()
			r.Bind("edge-1", roster.Keys{Current: "k1", Next: "k2", Version: roster.Version{UID: "u", Generation: 1}})
			r.connect(t, "edge-1", 1, "a", "k2")
			if _, err := r.Snapshot("edge-1", "a", roster.Claim{Epoch: "e1"}); err != nil {
				t.Fatal(err)
			}
			unbind(r)
			if err := r.Check("edge-1", "k2"); !errors.Is(err, roster.ErrUnknown) {
				t.Errorf("without keys: %v", err)
			}
			r.Bind("edge-1", roster.Keys{Current: "k1", Next: "k2", Version: roster.Version{UID: "u", Generation: 3}})
			if err := r.Check("edge-1", "k1"); err == nil {
				t.Error("the previous key comes in again")
			}
			if err := r.Check("edge-1", "k2"); err != nil {
				t.Errorf("the key that the device used: %v", err)
			}
		})
	}
}

// A device that begins to leave is told to the outside once.
func TestLeavingIsTold(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.there(t, device)
	r.Outdated(device)
	if len(r.left) > 0 {
		t.Errorf("devices that leave are %v", r.left)
	}
	r.Revoke(device, wire.RevocationStop)
	r.Revoke(device, wire.RevocationStop)
	if want := []string{device}; !slices.Equal(r.left, want) {
		t.Errorf("devices that leave are %v, want %v", r.left, want)
	}
	if _, is := r.Leaving(device); !is {
		t.Error("the device is not leaving")
	}
	changes := r.changed[device]
	r.Left(device)
	r.Left(device)
	if _, is := r.Leaving(device); is || !r.IsOut(device) || r.changed[device] != changes+1 {
		t.Errorf("a device that left is leaving: %v, out: %v, told %d times", is, r.IsOut(device), r.changed[device]-changes)
	}
}

// Who was not told to leave stays.
func TestOnlyWhoLeavesHasLeft(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.there(t, device)
	changes := r.changed[device]
	r.Left(device)
	if r.IsOut(device) || r.changed[device] != changes {
		t.Error("a device that nobody revoked is out")
	}
}
