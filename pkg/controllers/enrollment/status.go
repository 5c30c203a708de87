package enrollment

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// setTokenStatus shows how often the token was used, and whether it can be, and
// reports whether that changed anything.
func setTokenStatus(t *v1alpha1.EnrollmentToken, uses int, usedAt, now time.Time) (changed bool) {
	if uses > t.Status.Uses {
		t.Status.Uses, changed = uses, true
		if !usedAt.IsZero() {
			t.Status.LastUsedAt = new(metav1.NewTime(usedAt))
		}
	}
	expiry := metav1.NewTime(t.Expiry())
	if !expiry.Equal(t.Status.ExpiresAt) {
		t.Status.ExpiresAt, changed = &expiry, true
	}
	usable := metav1.Condition{Type: v1alpha1.TokenUsable, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonUsable, ObservedGeneration: t.Generation}
	switch {
	case !now.Before(expiry.Time):
		usable.Status, usable.Reason, usable.Message = metav1.ConditionFalse, v1alpha1.ReasonExpired, "the token expired"
	case t.Status.Uses >= t.Spec.MaxUses:
		usable.Status, usable.Reason = metav1.ConditionFalse, v1alpha1.ReasonUsedUp
		usable.Message = fmt.Sprintf("%d of %d devices enrolled with it", t.Status.Uses, t.Spec.MaxUses)
	}
	return meta.SetStatusCondition(&t.Status.Conditions, usable) || changed
}

// setRequestStatus shows whether the request waits for an operator, and since
// when, and reports whether that changed anything.
func setRequestStatus(r *v1alpha1.EnrollmentRequest, now time.Time) (changed bool) {
	pending := metav1.Condition{
		Type: v1alpha1.RequestPending, LastTransitionTime: metav1.NewTime(now), Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAwaitsOperator, ObservedGeneration: r.Generation,
		Message: "its key is " + wire.ShowFingerprint(r.Spec.KeyFingerprint) + ": compare that with what the device shows, then approve it with `fleet-server device approve " + r.Name + "`, or deny it",
	}
	changed = withdrawNameless(r)
	if r.IsApproved() || r.IsDenied() {
		pending.Status, pending.Reason, pending.Message = metav1.ConditionFalse, v1alpha1.ReasonDecided, "an operator decided"
	}
	return meta.SetStatusCondition(&r.Status.Conditions, pending) || changed
}

// withdrawNameless takes back an approval that does not name the key of the
// request, as those of an earlier version, and reports whether there was one: who
// approved may have meant another.
func withdrawNameless(r *v1alpha1.EnrollmentRequest) bool {
	if !meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.RequestApproved) || r.Status.ApprovedKeyFingerprint == r.Spec.KeyFingerprint {
		return false
	}
	return meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{
		Type: v1alpha1.RequestApproved, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonKeyNotNamed, ObservedGeneration: r.Generation,
		Message: "the approval did not name the key that it was for: approve it again",
	})
}

// endOf returns when a request is removed whose status was set. Its age counts
// from what this server wrote by its own clock: the wall clock, by which objects
// are created and operators decide, may be wrong.
func endOf(r *v1alpha1.EnrollmentRequest) time.Time {
	retention := pendingRetention
	switch {
	case r.IsDenied():
		retention = deniedRetention
	case r.IsApproved():
		retention = answeredRetention
	}
	return meta.FindStatusCondition(r.Status.Conditions, v1alpha1.RequestPending).LastTransitionTime.Add(retention)
}
