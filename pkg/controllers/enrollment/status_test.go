package enrollment

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

func TestTokenStatus(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		uses   int
		at     time.Duration
		usable bool
		reason string
	}{
		"new":            {0, 0, true, v1alpha1.ReasonUsable},
		"nearly expired": {1, v1alpha1.DefaultTokenTTL - time.Second, true, v1alpha1.ReasonUsable},
		"expired":        {0, v1alpha1.DefaultTokenTTL, false, v1alpha1.ReasonExpired},
		"used up":        {2, 0, false, v1alpha1.ReasonUsedUp},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token := &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}}
			token.Spec.MaxUses, token.Status.Uses = 2, tc.uses
			if !setTokenStatus(token, made.Add(tc.at)) || setTokenStatus(token, made.Add(tc.at)) {
				t.Error("it changes not once")
			}
			c := meta.FindStatusCondition(token.Status.Conditions, v1alpha1.TokenUsable)
			if (c.Status == metav1.ConditionTrue) != tc.usable || c.Reason != tc.reason || !token.Status.ExpiresAt.Time.Equal(made.Add(v1alpha1.DefaultTokenTTL)) {
				t.Errorf("status is %+v", token.Status)
			}
		})
	}
}

func TestRequestStatus(t *testing.T) {
	t.Parallel()
	decided := metav1.NewTime(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))
	decide := func(r *v1alpha1.EnrollmentRequest, typ string) {
		meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{Type: typ, Status: metav1.ConditionTrue, LastTransitionTime: decided})
	}
	for name, tc := range map[string]struct {
		decisions []string
		pending   metav1.ConditionStatus
		approved  bool
		end       time.Duration
	}{
		"new":      {nil, metav1.ConditionTrue, false, 0},
		"approved": {[]string{v1alpha1.RequestApproved}, metav1.ConditionFalse, true, answeredRetention},
		"denied":   {[]string{v1alpha1.RequestDenied}, metav1.ConditionFalse, false, deniedRetention},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &v1alpha1.EnrollmentRequest{}
			for _, d := range tc.decisions {
				decide(r, d)
			}
			if !setRequestStatus(r) || setRequestStatus(r) {
				t.Error("it changes not once")
			}
			if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.RequestPending); c.Status != tc.pending || isApproved(r) != tc.approved {
				t.Errorf("conditions are %+v", r.Status.Conditions)
			}
			if end, ends := endOf(r); ends != (tc.end > 0) || ends && !end.Equal(decided.Add(tc.end)) {
				t.Errorf("it ends at %v, %v", end, ends)
			}
		})
	}
	both := &v1alpha1.EnrollmentRequest{}
	decide(both, v1alpha1.RequestApproved)
	decide(both, v1alpha1.RequestDenied)
	if isApproved(both) {
		t.Error("a request that was approved and denied is let in")
	}
}
