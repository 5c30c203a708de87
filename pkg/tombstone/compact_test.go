package tombstone_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const day = 24 * time.Hour

// renewer is a device that renews its certificate with a new key each time, and
// everything that it ever had.
type renewer struct {
	name string
	keys int
	// ends is when the certificates of each key end, by its fingerprint.
	ends map[string]time.Time
	key  string
}

func newRenewer(name string, now time.Time) *renewer {
	r := &renewer{name: name, ends: map[string]time.Time{}}
	r.issue(now)
	return r
}

func (r *renewer) issue(now time.Time) {
	r.keys++
	r.key = wire.Sum(fmt.Appendf(nil, "%s %d", r.name, r.keys)).String()
	r.ends[r.key] = now.Add(pki.DeviceValidity)
}

// renew makes the present key the previous one.
func (r *renewer) renew(t testing.TB, list *tombstone.List, now time.Time) {
	t.Helper()
	old := r.key
	r.issue(now)
	if err := list.Add(tombstone.Entry{Fingerprint: old, Device: r.name, Reason: tombstone.ReasonRenewed, Time: now}); err != nil {
		t.Fatal(err)
	}
}

// fleet is devices by name.
type fleet map[string]*renewer

// latest is what the server knows of the certificates in use.
func (f fleet) latest() map[string]time.Time {
	ends := map[string]time.Time{}
	for name, r := range f {
		ends[name] = r.ends[r.key]
	}
	return ends
}

// check fails unless the present key of each device is good, and every other one
// is refused.
func (f fleet) check(t interface {
	Helper()
	Errorf(string, ...any)
}, list *tombstone.List) {
	t.Helper()
	for _, r := range f {
		for key, ends := range r.ends {
			refused := list.Has(key) || list.Superseded(r.name, ends)
			if refused == (key == r.key) {
				t.Errorf("%s: key %.8s, whose certificates end at %s, is refused: %v, and is the present one: %v", r.name, key, ends, refused, key == r.key)
			}
		}
	}
}

func lines(t testing.TB, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

// Devices renew for thirty years. The list does not grow, and no key comes back.
func TestRenewalsDoNotGrowTheList(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "revoked-keys.jsonl")
	list := reopen(t, nil, path)
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	devices := fleet{}
	for i := range 5 {
		name := fmt.Sprintf("edge-%d", i)
		devices[name] = newRenewer(name, now)
	}
	revoked := stone(1)
	revoked.Time = now
	if err := list.Add(revoked); err != nil {
		t.Fatal(err)
	}
	const most = 6 // those of the last two years and a month, twice a year, and one for all before
	for range 60 {
		now = now.Add(pki.DeviceValidity / 2)
		for _, name := range slices.Sorted(maps.Keys(devices)) {
			devices[name].renew(t, list, now)
		}
		if _, err := list.Compact(now.Add(day), devices.latest()); err != nil {
			t.Fatal(err)
		}
		devices.check(t, list)
		if n := lines(t, path); n > most*len(devices)+1 {
			t.Fatalf("the list has %d lines for %d devices", n, len(devices))
		}
	}
	list = reopen(t, list, path)
	devices.check(t, list)
	if !list.Has(revoked.Fingerprint) {
		t.Error("a key that was revoked is forgotten")
	}
	if gone, err := list.Compact(now.Add(day), devices.latest()); gone != 0 || err != nil {
		t.Errorf("the second time %d go, %v", gone, err)
	}
	// What is written afterwards is in the new file.
	if err := list.Add(stone(2)); err != nil {
		t.Fatal(err)
	}
	list = reopen(t, list, path)
	if !list.Has(stone(2).Fingerprint) {
		t.Error("a tombstone that was added after a compaction is lost")
	}
	devices.check(t, list)
}

// longAgo is a list with three keys of edge-1 that were renewed so long ago that
// their tombstones can be merged, and one that was not.
func longAgo(t testing.TB, path string) (*tombstone.List, fleet, time.Time) {
	t.Helper()
	list := reopen(t, nil, path)
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	r := newRenewer("edge-1", now)
	for range 3 {
		now = now.Add(100 * day)
		r.renew(t, list, now)
	}
	now = now.Add(3 * pki.DeviceValidity)
	r.renew(t, list, now)
	return list, fleet{"edge-1": r}, now
}

func TestWhatIsNotMerged(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		// before changes the list or the devices, or the time of the compaction.
		before func(*tombstone.List, fleet, *time.Time) error
		gone   int
	}{
		"nothing is wrong":      {func(*tombstone.List, fleet, *time.Time) error { return nil }, 2},
		"the device is unknown": {func(_ *tombstone.List, f fleet, _ *time.Time) error { delete(f, "edge-1"); return nil }, 0},
		"the clock is behind":   {func(_ *tombstone.List, _ fleet, now *time.Time) error { *now = time.Unix(0, 0); return nil }, 0},
		"a present that is past": {func(_ *tombstone.List, f fleet, now *time.Time) error {
			f["edge-1"].ends[f["edge-1"].key] = now.Add(-3 * pki.DeviceValidity)
			return nil
		}, 0},
		"a key was revoked, too": {func(l *tombstone.List, _ fleet, _ *time.Time) error {
			key := wire.Sum([]byte("edge-1 2")).String()
			return l.Add(tombstone.Entry{Fingerprint: key, Device: "edge-1", Reason: "revoked", Revocation: wire.RevocationWipe})
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list, devices, now := longAgo(t, filepath.Join(t.TempDir(), "list"))
			if err := tc.before(list, devices, &now); err != nil {
				t.Fatal(err)
			}
			gone, err := list.Compact(now.Add(day), devices.latest())
			if gone != tc.gone || err != nil {
				t.Errorf("%d are gone, want %d, %v", gone, tc.gone, err)
			}
			devices.check(t, list)
		})
	}
}

// Times that are before those of earlier lines come from a clock that was wrong:
// the keys may have certificates that last much longer.
func TestTombstonesOfAWrongClockAreKept(t *testing.T) {
	t.Parallel()
	list := reopen(t, nil, filepath.Join(t.TempDir(), "list"))
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	r := newRenewer("edge-1", now)
	if err := list.Add(tombstone.Entry{Fingerprint: stone(0).Fingerprint, Device: "edge-0", Reason: "revoked", Time: now}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r.renew(t, list, time.Unix(0, 0))
		r.ends[r.key] = now.Add(pki.DeviceValidity)
	}
	if gone, err := list.Compact(now.Add(day), fleet{"edge-1": r}.latest()); gone != 0 || err != nil {
		t.Errorf("%d are gone, %v", gone, err)
	}
}

// Whatever happens in whatever order, no key comes back and no device is locked
// out; after a restart, too.
func TestCompactionsAtRandom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(t.TempDir(), "list")
		list := reopen(t, nil, path)
		now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
		devices := fleet{"a": newRenewer("a", now), "b": newRenewer("b", now)}
		var revoked []string
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(rt, "days")) * day)
			name := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "device")
			switch rapid.SampledFrom([]string{"renew", "renew", "renew", "replace", "compact", "compact", "restart"}).Draw(rt, "what") {
			case "renew":
				devices[name].renew(t, list, now)
			case "replace":
				key := devices[name].key
				if err := list.Add(tombstone.Entry{Fingerprint: key, Device: name, Reason: "replaced", Time: now}); err != nil {
					rt.Fatal(err)
				}
				revoked = append(revoked, key)
				devices[name].issue(now)
			case "compact":
				if _, err := list.Compact(now, devices.latest()); err != nil {
					rt.Fatal(err)
				}
			case "restart":
				list = reopen(t, list, path)
			}
			devices.check(rt, list)
			for _, key := range revoked {
				if !list.Has(key) {
					rt.Fatalf("%.8s was revoked and is forgotten", key)
				}
			}
		}
	})
}

// A power cut leaves the list from before a compaction or the one after it:
// whatever is there at any moment can be read and refuses the same keys.
func TestPowerCutsDuringCompactions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "revoked-keys.jsonl")
	list, devices, now := longAgo(t, path)
	// On a busy machine the watcher misses most of the states: the list changes until
	// it has seen enough of them.
	const states = 20
	watched := make(chan struct{})
	var seen [][]byte
	go func() {
		defer close(watched)
		for len(seen) < states {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Errorf("at some moment there is no list: %v", err)
				return
			}
			if len(seen) == 0 || string(seen[len(seen)-1]) != string(data) {
				seen = append(seen, data)
			}
		}
	}()
	for changing := true; changing; {
		select {
		case <-watched:
			changing = false
		default:
		}
		now = now.Add(pki.DeviceValidity / 2)
		devices["edge-1"].renew(t, list, now)
		if _, err := list.Compact(now.Add(day), devices.latest()); err != nil {
			t.Fatal(err)
		}
	}
	for i, data := range seen {
		// What an interrupted write left beside it is not read.
		at := filepath.Join(dir, fmt.Sprint(i))
		for name, content := range map[string][]byte{at: data, filepath.Join(dir, ".tmp-"+fmt.Sprint(i)): data[:len(data)/2]} {
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		restarted := reopen(t, nil, at)
		// The first four keys had made room before anybody watched.
		for n := 1; n <= 4; n++ {
			key := wire.Sum(fmt.Appendf(nil, "edge-1 %d", n)).String()
			if ends := devices["edge-1"].ends[key]; !restarted.Has(key) && !restarted.Superseded("edge-1", ends) {
				t.Errorf("state %d: key %d comes back", i, n)
			}
		}
	}
}

// Not parallel: the limit is that of the process.
func TestCompactionOnAFullDisk(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	path := filepath.Join(t.TempDir(), "revoked-keys.jsonl")
	list, devices, now := longAgo(t, path)
	before := lines(t, path)
	withFileLimit(t, 100, func() {
		if gone, err := list.Compact(now.Add(day), devices.latest()); err == nil || gone != 0 {
			t.Errorf("%d go on a full disk (%v)", gone, err)
		}
	})
	devices.check(t, list)
	if n := lines(t, path); n != before {
		t.Errorf("the list has %d lines, want %d", n, before)
	}
	if err := list.Add(stone(1)); err != nil {
		t.Fatal(err)
	}
	if gone, err := list.Compact(now.Add(day), devices.latest()); err != nil || gone != 2 {
		t.Errorf("afterwards %d go (%v)", gone, err)
	}
	list = reopen(t, list, path)
	devices.check(t, list)
	if !list.Has(stone(1).Fingerprint) {
		t.Error("a tombstone is lost")
	}
}

// A merged tombstone is one for an earlier version, and it refuses certificates
// at both doors.
func TestMergedTombstoneRefusesCertificates(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list")
	list, devices, now := longAgo(t, path)
	if _, err := list.Compact(now.Add(day), devices.latest()); err != nil {
		t.Fatal(err)
	}
	registry := roster.New(roster.Config{Fleet: "fleet", Revoked: list})
	r := devices["edge-1"]
	uri, err := wire.DeviceURI("fleet", "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	for key, ends := range r.ends {
		name, err := registry.Name(&x509.Certificate{URIs: []*url.URL{uri}, NotAfter: ends})
		superseded := errors.Is(err, roster.ErrSuperseded)
		if merged := !list.Has(key) && key != r.key; merged && !superseded || key == r.key && superseded || (err == nil) != (name == "edge-1") {
			t.Errorf("the certificate until %s names %q, %v", ends, name, err)
		}
	}
	other, err := wire.DeviceURI("fleet", "edge-2")
	if err != nil {
		t.Fatal(err)
	}
	if name, err := registry.Name(&x509.Certificate{URIs: []*url.URL{other}, NotAfter: time.Unix(0, 0)}); name != "edge-2" {
		t.Errorf("another device's certificate names %q, %v", name, err)
	}
	// The store as it is, and as an old backup has it.
	device := &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}, Spec: v1alpha1.DeviceSpec{Enrollment: &v1alpha1.DeviceEnrollment{EnrolledAt: new(metav1.NewTime(now.Add(-5 * pki.DeviceValidity)))}}}
	device.Status.CertificateExpires = new(metav1.NewTime(r.ends[r.key]))
	if list.Outdated(device) {
		t.Error("the store counts as older than the list")
	}
	device.Status.CertificateExpires = new(metav1.NewTime(now.Add(-3 * pki.DeviceValidity)))
	if !list.Outdated(device) {
		t.Error("a store from a backup counts as current")
	}
	// A new machine that has the name.
	device.Spec.Enrollment.EnrolledAt = new(metav1.NewTime(now))
	if list.Outdated(device) {
		t.Error("a machine that has just enrolled counts as an old one")
	}
	// After a clock that was ahead by years.
	old := now.Add(-3 * pki.DeviceValidity)
	for range 2 {
		if err := list.Lift("edge-1"); err != nil {
			t.Fatal(err)
		}
		if list.Superseded("edge-1", old) {
			t.Error("it is still refused")
		}
		list = reopen(t, list, path)
	}
}

// The disk fails after the new file has its name, or before. What is added
// afterwards is there at the next start.
func TestCompactionThatFailsLosesNothing(t *testing.T) {
	t.Parallel()
	broken := errors.New("the disk is broken")
	for name, write := range map[string]func(string, []byte, fs.FileMode) error{
		"before the rename": func(string, []byte, fs.FileMode) error { return broken },
		"after the rename": func(path string, data []byte, perm fs.FileMode) error {
			return errors.Join(atomicfile.Write(path, data, perm), broken)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "list")
			list, devices, now := longAgo(t, path)
			list.SetReplaceFile(write)
			if _, err := list.Compact(now.Add(day), devices.latest()); !errors.Is(err, broken) {
				t.Fatalf("the compaction says %v", err)
			}
			if err := list.Add(stone(9)); err != nil {
				t.Fatal(err)
			}
			list = reopen(t, list, path)
			if !list.Has(stone(9).Fingerprint) {
				t.Error("a tombstone that was added after the failure is lost")
			}
			devices.check(t, list)
		})
	}
}
