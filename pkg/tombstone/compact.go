package tombstone

import (
	"errors"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/pki"
)

// keyLifetime is how long after a key made room its certificates can last: they
// are valid for a year, were issued by a clock that may have been ahead by one
// (see package clock), and a request may have been on its way.
const keyLifetime = 2*pki.DeviceValidity + 30*24*time.Hour

// Compact merges the tombstones of the keys that each device renewed long ago
// into one, and returns how many went. The one refuses every certificate of the
// device that those keys can have, expired or not, whatever the API store says: so
// the keys stay out, also after the restore of an older store that knows them.
//
// latest has, by the name of a device, when the certificate ends that it last
// came with. Only keys whose certificates all end before that are merged, so that the
// device's own is never refused. Tombstones of revoked keys are kept for ever.
func (t *List) Compact(now time.Time, latest map[string]time.Time) (gone int, err error) {
	t.writing.Lock()
	defer t.writing.Unlock()
	var all []Entry
	if err := t.journal.Read(func(s Entry) { all = append(all, s) }); err != nil {
		return 0, fmt.Errorf("compacting the list of revoked keys: %w", err)
	}
	kept := merge(all, now, latest)
	if len(kept) == len(all) {
		return 0, nil
	}
	t.read = false
	if err := errors.Join(t.journal.Replace(kept), t.load()); err != nil {
		return 0, fmt.Errorf("compacting the list of revoked keys: %w", err)
	}
	return len(all) - len(kept), nil
}

// merge is pure: it returns the list with the tombstones of each device merged
// that can be, in the same order.
func merge(list []Entry, now time.Time, latest map[string]time.Time) []Entry {
	mergeable, until := bounds(list, now, latest)
	last, many := map[string]int{}, map[string]int{}
	for i, s := range list {
		if mergeable[i] {
			last[s.Device] = i
			many[s.Device]++
		}
	}
	var kept []Entry
	for i, s := range list {
		switch {
		case !mergeable[i] || many[s.Device] < 2:
		case last[s.Device] != i:
			continue
		default:
			s.CertificatesUntil = until[s.Device]
		}
		kept = append(kept, s)
	}
	return kept
}

// bounds returns which tombstones can be merged, and for each device until when
// the certificates of their keys last.
func bounds(list []Entry, now time.Time, latest map[string]time.Time) (mergeable []bool, until map[string]time.Time) {
	revoked := map[string]bool{}
	for _, s := range list {
		if s.Reason != ReasonRenewed {
			revoked[s.Fingerprint] = true
		}
	}
	mergeable, until = make([]bool, len(list)), map[string]time.Time{}
	var written time.Time
	for i, s := range list {
		// The list is in order: a time before the one of an earlier line is wrong.
		if s.Time.After(written) {
			written = s.Time
		}
		end := written.Add(keyLifetime)
		if s.CertificatesUntil.After(end) {
			end = s.CertificatesUntil
		}
		own, known := latest[s.Device]
		if revoked[s.Fingerprint] || !known || !end.Before(own) || !end.Before(now) {
			continue
		}
		mergeable[i] = true
		if end.After(until[s.Device]) {
			until[s.Device] = end
		}
	}
	return mergeable, until
}

// Superseded reports whether a certificate of a device, by its end, is one of
// keys that the device had earlier.
func (t *List) Superseded(device string, ends time.Time) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	until := t.merged[device].CertificatesUntil
	return !until.IsZero() && !ends.After(until)
}

// Outdated reports whether what the API store says about a device is older than
// what the list has merged: its keys have made room since, and the store was
// restored from a backup.
func (t *List) Outdated(d *v1alpha1.Device) bool {
	newest := d.CreationTimestamp.Add(pki.DeviceValidity)
	if at := d.Spec.Enrollment.EnrolledAt; at != nil && at.After(newest.Add(-pki.DeviceValidity)) {
		newest = at.Add(pki.DeviceValidity)
	}
	if ends := d.Status.CertificateExpires; ends != nil && ends.After(newest) {
		newest = ends.Time
	}
	return t.Superseded(d.Name, newest)
}

// Lift takes back that a device's tombstones were merged, when it gets a
// certificate that they would refuse. That happens after a clock, which an operator
// had accepted, was set back by years.
func (t *List) Lift(device string) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.mu.RLock()
	s, has := t.merged[device]
	t.mu.RUnlock()
	if !has {
		return nil
	}
	s.CertificatesUntil = time.Time{}
	return t.write(s)
}
