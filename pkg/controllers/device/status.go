package device

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/events"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// sighting is what is known about whether a device is there.
type sighting struct {
	// last is when the device was last heard, by the wall clock.
	last             time.Time
	present, settled bool
	// refused: no key that the device is bound to lets it in. tooOld: its agent is refused.
	refused, tooOld bool
}

func (c *Controller) writeStatus(ctx context.Context, d *v1alpha1.Device) error {
	if changed, err := c.acceptIfAsked(ctx, d); err != nil || changed {
		return err
	}
	last, present, settled := c.Roster.Presence(d.Name)
	c.mu.Lock()
	reported := c.reports[d.Name].info.Conditions
	c.mu.Unlock()
	_, expires := c.Roster.Used(d.Name)
	record := c.Roster.Record(d.Name)
	status := newStatus(d, sighting{last, present, settled, c.refused(d), c.Roster.IsTooOld(d.Name)}, reported)
	setSuspicion(status, d.Generation, record, c.Roster.Claimants(d.Name))
	if can, known := c.Roster.Capabilities(d.Name); known {
		status.Capabilities = capabilityNames(can)
	}
	if lacks, known := c.Lacks(d.Name); known {
		setOutdated(status, d.Generation, lacks)
	}
	if problems, known := c.Problems(d.Name); known {
		setRendered(status, d.Generation, problems)
	}
	status.Nonce = statusNonce(record.Nonce)
	if !expires.IsZero() {
		status.CertificateExpires = new(metav1.NewTime(expires.UTC()))
	}
	if !equality.Semantic.DeepEqual(status, &d.Status) {
		if err := c.budget.Wait(ctx); err != nil {
			return err
		}
		written, err := c.applyStatus(ctx, d, status)
		if err != nil {
			return client.IgnoreNotFound(err)
		}
		c.reportSuspicion(d, status)
		events.Record(c.Recorder, d, events.OfDevice(d, written)...)
		if !equality.Semantic.DeepEqual(written.Nonce, status.Nonce) {
			return nil
		}
	}
	if record.Nonce != nil && c.Roster.Stored(d.Name, record.Nonce) {
		c.Door.Nudge(d.Name) // to fetch it
	}
	return nil
}

// applyStatus writes a status, and returns what was written of it: a part that the API
// refuses keeps no other one out, and is not written again; one that it fails to write is.
func (c *Controller) applyStatus(ctx context.Context, d *v1alpha1.Device, status *v1alpha1.DeviceStatus) (written *v1alpha1.DeviceStatus, err error) {
	if _, err = c.putStatus(ctx, d, d.ResourceVersion, status); !isRefusal(err) {
		return status, err
	}
	c.Logger.Error("the API refuses a part of a device's status, which is written without it", "device", d.Name, "error", err)
	written, version := d.Status.DeepCopy(), d.ResourceVersion
	var failed error
	for _, set := range parts {
		next := written.DeepCopy()
		set(next, status)
		updated, err := c.putStatus(ctx, d, version, next)
		switch {
		case apierrors.IsInternalError(err): // of the store, it may be, and then it passes
			failed = err
		case isRefusal(err):
		case err != nil:
			return written, err
		default:
			written, version = next, updated.ResourceVersion
		}
	}
	return written, failed
}

// putStatus updates the status of one version of a Device, or it would undo what an
// operator did meanwhile. The version covers all that a status holds, so that it needs no
// server-side apply, which costs twice as much.
func (c *Controller) putStatus(ctx context.Context, d *v1alpha1.Device, version string, status *v1alpha1.DeviceStatus) (*v1alpha1.Device, error) {
	next := *d // shallow: only what is replaced is written to
	next.ResourceVersion, next.Status = version, *status
	c.Metrics.Wrote(kind, reasonOf(&d.Status, status))
	updated, err := c.Client.Devices().UpdateStatus(ctx, &next, metav1.UpdateOptions{FieldManager: fieldManager})
	if err == nil {
		c.noteStatus(updated)
	}
	return updated, err
}

// reasonOf names why a status is written, for the metric: a device that comes and goes, or
// gets another nonce, costs writes that nothing else causes.
func reasonOf(old, now *v1alpha1.DeviceStatus) string {
	connected := func(s *v1alpha1.DeviceStatus) bool {
		return meta.IsStatusConditionTrue(s.Conditions, v1alpha1.DeviceConnected)
	}
	rest := *now // shallow: only what is replaced is written to
	rest.Nonce = old.Nonce
	switch is := connected(now); {
	case is && !connected(old):
		return "connected"
	case !is && connected(old):
		return "disconnected"
	case equality.Semantic.DeepEqual(&rest, old):
		return "nonce"
	}
	return "status"
}

// isRefusal reports whether an error of the API is about what was written, so that
// writing it again is useless.
func isRefusal(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsInternalError(err)
}

// parts of a status are written one by one when they cannot be written together. They
// take turns from what matters most to what devices have the greatest hand in.
var parts = []func(to, from *v1alpha1.DeviceStatus){
	func(to, from *v1alpha1.DeviceStatus) {
		to.LastSeen, to.CertificateExpires, to.Accepted, to.Session = from.LastSeen, from.CertificateExpires, from.Accepted, from.Session
	},
	func(to, from *v1alpha1.DeviceStatus) { to.Nonce = from.Nonce },
	func(to, from *v1alpha1.DeviceStatus) { to.Conditions = from.Conditions },
	func(to, from *v1alpha1.DeviceStatus) { to.Capabilities = from.Capabilities },
	func(to, from *v1alpha1.DeviceStatus) { to.Claimants = from.Claimants },
}

// refused reports whether no key that the device is bound to lets it in, as
// after the restore of an API store that does not know of its revocation.
func (c *Controller) refused(d *v1alpha1.Device) bool {
	e := d.Spec.Enrollment
	return e != nil && !d.Spec.Revoked && c.Tombstones.Has(e.KeyFingerprint) && (e.NextKeyFingerprint == "" || c.Tombstones.Has(e.NextKeyFingerprint))
}

// setRefused says why a device does not connect that is not revoked by its object.
func setRefused(status *v1alpha1.DeviceStatus, generation int64) {
	if meta.IsStatusConditionTrue(status.Conditions, v1alpha1.DeviceConnected) {
		return // it is about to be dropped
	}
	connected := metav1.Condition{
		Type: v1alpha1.DeviceConnected, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonKeyRefused, ObservedGeneration: generation,
		Message: "the device's key was revoked or replaced, though the API store does not say so, as after the restore of an older backup: " +
			"approve the device's request if there is one, or delete the Device and enroll with a new token",
	}
	meta.SetStatusCondition(&status.Conditions, connected)
}

// newStatus is pure: the status that follows from what is known.
func newStatus(d *v1alpha1.Device, s sighting, reported []wire.Condition) *v1alpha1.DeviceStatus {
	status := d.Status.DeepCopy()
	set := func(typ string, value metav1.ConditionStatus, reason, message string) bool {
		return meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: typ, Status: value, Reason: reason, Message: message, ObservedGeneration: d.Generation,
		})
	}
	was := meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceConnected)
	connected, known := connection(d, s)
	if known {
		set(connected.Type, connected.Status, connected.Reason, connected.Message)
		if is := connected.Status == metav1.ConditionTrue; is != was {
			seen := metav1.NewTime(s.last.UTC().Truncate(time.Second))
			if is {
				status.LastSeen = &seen
			} else if was {
				now := metav1.NewTime(time.Now().UTC().Truncate(time.Second))
				status.LastSeen = &now
			}
		}
		setReported(status, connected.Status == metav1.ConditionTrue, reported, set)
	}
	if s.refused {
		setRefused(status, d.Generation)
	}
	setReadiness(status, readiness(status), d.Generation)
	status.ObservedGeneration = d.Generation
	return status
}

// setReadiness sets Ready and, while it is not True, the problem that tools know
// which know nothing of fleet (kstatus): Reconciling if the device may become ready
// by itself, else Stalled.
func setReadiness(status *v1alpha1.DeviceStatus, ready metav1.Condition, generation int64) {
	ready.ObservedGeneration = generation
	meta.SetStatusCondition(&status.Conditions, ready)
	problem, other := v1alpha1.DeviceReconciling, v1alpha1.DeviceStalled
	if needsSomebody(ready) {
		problem, other = other, problem
	}
	meta.RemoveStatusCondition(&status.Conditions, other)
	if ready.Status == metav1.ConditionTrue {
		meta.RemoveStatusCondition(&status.Conditions, problem)
		return
	}
	ready.Type, ready.Status = problem, metav1.ConditionTrue
	meta.SetStatusCondition(&status.Conditions, ready)
}

// needsSomebody reports whether a device that is not ready stays so until somebody acts.
func needsSomebody(ready metav1.Condition) bool {
	switch ready.Reason {
	case v1alpha1.ReasonRevoked, v1alpha1.ReasonKeyRefused, v1alpha1.ReasonAgentTooOld:
		return true
	}
	return ready.Reason == v1alpha1.ReasonPodmanNotReady && ready.Status == metav1.ConditionFalse
}

// connection returns condition Connected, and false while it is too early to
// tell.
func connection(d *v1alpha1.Device, s sighting) (metav1.Condition, bool) {
	c := metav1.Condition{Type: v1alpha1.DeviceConnected, Status: metav1.ConditionFalse}
	switch {
	case d.Spec.Revoked:
		c.Reason, c.Message = v1alpha1.ReasonRevoked, "the device was revoked: to let it back in, delete the Device and enroll with a new token"
	case s.present:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonHeartbeatsArrive, "the device is connected"
	case s.tooOld:
		c.Reason, c.Message = v1alpha1.ReasonAgentTooOld, "the server refuses the device's agent, which is too old: upgrade fleet-agent on the device"
	case d.Status.LastSeen == nil:
		c.Reason, c.Message = v1alpha1.ReasonNeverConnected, "the device has not connected yet"
	case !s.settled && meta.IsStatusConditionTrue(d.Status.Conditions, c.Type):
		return c, false
	default:
		c.Reason, c.Message = v1alpha1.ReasonNoHeartbeat, "no message arrives from the device"
	}
	return c, true
}

// setReported shows what the device says of itself, and Unknown when it is gone.
func setReported(status *v1alpha1.DeviceStatus, connected bool, reported []wire.Condition, set func(string, metav1.ConditionStatus, string, string) bool) {
	for _, typ := range wire.DeviceConditions {
		i := slices.IndexFunc(reported, func(c wire.Condition) bool { return c.Type == typ })
		switch {
		case connected && i >= 0:
			r := sanitize(reported[i])
			set(typ, metav1.ConditionStatus(r.Status), r.Reason, r.Message)
		case !connected && meta.FindStatusCondition(status.Conditions, typ) != nil:
			set(typ, metav1.ConditionUnknown, v1alpha1.ReasonDisconnected, "the device is not connected")
		}
	}
}

func readiness(status *v1alpha1.DeviceStatus) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.DeviceReady, Status: metav1.ConditionFalse}
	connected := meta.FindStatusCondition(status.Conditions, v1alpha1.DeviceConnected)
	podman := meta.FindStatusCondition(status.Conditions, v1alpha1.DevicePodmanReady)
	switch {
	case connected == nil || connected.Status != metav1.ConditionTrue:
		c.Reason, c.Message = v1alpha1.ReasonDisconnected, "the device is not connected"
		if connected != nil {
			c.Reason, c.Message = connected.Reason, connected.Message
		}
	case podman == nil || podman.Status == metav1.ConditionUnknown:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonPodmanNotReady, "the device has not reported on podman yet"
	case podman.Status != metav1.ConditionTrue:
		c.Reason, c.Message = v1alpha1.ReasonPodmanNotReady, podman.Message
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonOperational, "the device is connected and podman answers"
	}
	return c
}

var reasonPattern = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_]{0,126}[A-Za-z0-9])?$`)

// sanitize makes a condition of a device into one that the API accepts, so
// that no device can keep its own object from being written.
func sanitize(c wire.Condition) wire.Condition {
	const longest = 1024
	switch c.Status {
	case wire.ConditionTrue, wire.ConditionFalse, wire.ConditionUnknown:
	default:
		c.Status = wire.ConditionUnknown
	}
	if !reasonPattern.MatchString(c.Reason) {
		c.Reason = v1alpha1.ReasonReported
	}
	if len(c.Message) > longest {
		c.Message = c.Message[:longest]
	}
	c.Message = strings.ToValidUTF8(c.Message, "")
	return c
}
