package device

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/events"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
)

const (
	// maxClaimants is how many sessions status.claimants shows, as the CRD says.
	maxClaimants = 16
	// unknown stands for what a session did not say of itself.
	unknown = "unknown"
)

// acceptIfAsked takes the session for the device that an operator chose among the
// claimants, and refuses the keys of the others for good. It reports whether the
// object's keys changed, which brings the object back.
func (c *Controller) acceptIfAsked(ctx context.Context, d *v1alpha1.Device) (changed bool, err error) {
	label := d.Status.Accepted
	if label == "" || !isSuspected(d) {
		return false, nil
	}
	i := slices.IndexFunc(d.Status.Claimants, func(k v1alpha1.DeviceClaimant) bool { return k.Session == label })
	if i < 0 {
		events.Record(c.Recorder, d, events.SessionUnknown(label))
		return false, nil
	}
	if key := d.Status.Claimants[i].KeyFingerprint; key != "" && (!d.HasKey(key) || c.Tombstones.Has(key)) {
		events.Record(c.Recorder, d, events.SessionRefused(d.Name, label))
		return false, nil
	}
	if changed, err = c.keepKey(ctx, d, d.Status.Claimants[i].KeyFingerprint); err != nil || changed {
		return changed, err
	}
	c.Logger.Info("an operator accepts a session of a device with a suspected copy", "device", d.Name, "label", label)
	c.Roster.Accept(d.Name, label)
	c.Door.Nudge(d.Name)
	return false, nil
}

// keepKey makes one of a device's two keys the only one. The other may be a copy's,
// which renewed its certificate before anybody suspected it.
func (c *Controller) keepKey(ctx context.Context, d *v1alpha1.Device, key string) (changed bool, err error) {
	e := d.Spec.Enrollment
	if e == nil || e.NextKeyFingerprint == "" || !d.HasKey(key) {
		return false, nil
	}
	other := e.NextKeyFingerprint
	if key == other {
		other = e.KeyFingerprint
	}
	err = c.Tombstones.Add(tombstone.Entry{Fingerprint: other, Device: d.Name, Reason: tombstone.ReasonNotAccepted, Time: c.Clock.Now().UTC()})
	if err != nil {
		return false, err
	}
	e.KeyFingerprint, e.NextKeyFingerprint = key, ""
	c.Metrics.Wrote(kind, "accepted")
	updated, err := c.Client.Devices().Update(ctx, d, metav1.UpdateOptions{FieldManager: fieldManager})
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	c.bind(updated)
	c.Roster.DropOtherKeys(d.Name, key)
	return true, nil
}

// setSuspicion shows whether a session of the device is taken for a copy, and
// which machines claim to be the device.
func setSuspicion(status *v1alpha1.DeviceStatus, generation int64, r roster.Record, claimants []roster.Claimant) {
	condition := metav1.Condition{Type: v1alpha1.DeviceCloneSuspected, ObservedGeneration: generation}
	status.Accepted, status.Session = r.Accepted, r.Session
	switch {
	case r.Suspicion != "":
		status.Claimants = shownClaimants(claimants, status.Claimants)
		condition.Status, condition.Reason, condition.Message = metav1.ConditionTrue, string(r.Suspicion), suspicionMessage(r.Suspicion, status.Claimants)
	case meta.FindStatusCondition(status.Conditions, condition.Type) != nil:
		status.Claimants = nil
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, v1alpha1.ReasonOneDevice, "no copy of the device was seen"
		if r.Accepted != "" {
			condition.Message = "an operator accepted session " + r.Accepted + ", which has not come back yet"
		}
	default:
		status.Claimants = nil
		return
	}
	meta.SetStatusCondition(&status.Conditions, condition)
}

// shownClaimants are those that are known. After a restart of the server the object
// knows more, but for the current session.
func shownClaimants(claimants []roster.Claimant, before []v1alpha1.DeviceClaimant) []v1alpha1.DeviceClaimant {
	if len(claimants) == 0 && len(before) > 0 {
		return before
	}
	var shown []v1alpha1.DeviceClaimant
	for _, k := range claimants[:min(len(claimants), maxClaimants)] {
		shown = append(shown, v1alpha1.DeviceClaimant{
			Session: k.Label, Current: k.Current, KeyFingerprint: k.Proof.Key, HardwareID: k.Hardware, Address: k.Proof.Address,
		})
	}
	if len(claimants) > 1 {
		return shown
	}
	for _, k := range before {
		if !k.Current && len(shown) < maxClaimants && !slices.ContainsFunc(shown, func(s v1alpha1.DeviceClaimant) bool { return s.Session == k.Session }) {
			shown = append(shown, k)
		}
	}
	return shown
}

var suspicions = map[roster.Suspicion]string{
	roster.StaleNonce:    "a session shows a nonce that the device had long ago",
	roster.RetiredKey:    "a key was shown that the device had until it was replaced by a renewal, and that is refused",
	roster.TwoSessions:   "two sessions of the device talk at the same time",
	roster.UnprovenFlood: "sessions that have not proven that they are the device send too much, or crowd each other out",
	roster.NotAccepted:   "an operator accepted another session of the device, which has not come back yet",
}

// suspicionMessage says why, and which machine has which key.
func suspicionMessage(why roster.Suspicion, claimants []v1alpha1.DeviceClaimant) string {
	const most = 4
	var b strings.Builder
	b.WriteString(suspicions[why])
	for i, k := range claimants[:min(len(claimants), most)] {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		standing := "gets nothing new"
		if k.Current {
			standing = "is taken for the device"
		}
		fmt.Fprintf(&b, "session %s (hardware %s, key %s, from %s) %s", k.Session, abbreviated(k.HardwareID), abbreviated(k.KeyFingerprint), cmp.Or(k.Address, unknown), standing)
	}
	return b.String()
}

// abbreviated is as much of a hash as people compare. An earlier version of the server
// took any text of a device for one.
func abbreviated(hash string) string {
	const digits = 12
	characters := []rune(printable.Line(hash))
	return cmp.Or(string(characters[:min(len(characters), digits)]), unknown)
}

// reportSuspicion records an event when a copy was seen for the first time.
func (c *Controller) reportSuspicion(d *v1alpha1.Device, status *v1alpha1.DeviceStatus) {
	suspected := meta.FindStatusCondition(status.Conditions, v1alpha1.DeviceCloneSuspected)
	if suspected == nil || suspected.Status != metav1.ConditionTrue || isSuspected(d) {
		return
	}
	c.Logger.Warn("a device may have been copied", "device", d.Name, "reason", suspected.Message)
	events.Record(c.Recorder, d, events.CloneSuspected(d.Name, suspected.Message, suspected.Reason == string(roster.RetiredKey)))
}

func isSuspected(d *v1alpha1.Device) bool {
	return meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceCloneSuspected)
}

// storedRecord is what the object has of the device's sessions.
func storedRecord(d *v1alpha1.Device) roster.Record {
	r := roster.Record{Accepted: d.Status.Accepted, Session: d.Status.Session}
	if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeviceCloneSuspected); c != nil && c.Status == metav1.ConditionTrue {
		r.Suspicion, r.Accepted = roster.Suspicion(c.Reason), "" // what is accepted has yet to be acted upon
	}
	if n := d.Status.Nonce; n != nil {
		r.Nonce = &roster.Nonce{Shown: n.Shown, Issued: slices.Clone(n.Issued), Epoch: n.Epoch, IssuedAt: n.IssuedAt.Time}
	}
	return r
}

func statusNonce(n *roster.Nonce) *v1alpha1.DeviceNonce {
	if n == nil {
		return nil
	}
	return &v1alpha1.DeviceNonce{
		Shown: n.Shown, Issued: slices.Clone(n.Issued), Epoch: n.Epoch,
		IssuedAt: metav1.NewTime(n.IssuedAt.UTC().Truncate(time.Second)),
	}
}
