package enrollment

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestTokenStatus(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		counted, uses int
		at            time.Duration
		usable        bool
		reason        string
	}{
		"new":                   {0, 0, 0, true, v1alpha1.ReasonUsable},
		"nearly expired":        {1, 0, v1alpha1.DefaultTokenTTL - time.Second, true, v1alpha1.ReasonUsable},
		"expired":               {0, 0, v1alpha1.DefaultTokenTTL, false, v1alpha1.ReasonExpired},
		"used up":               {2, 0, 0, false, v1alpha1.ReasonUsedUp},
		"used up a moment ago":  {1, 2, 0, false, v1alpha1.ReasonUsedUp},
		"used since":            {0, 1, 0, true, v1alpha1.ReasonUsable},
		"counted by one before": {1, 0, 0, true, v1alpha1.ReasonUsable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token := &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}}
			token.Spec.MaxUses, token.Status.Uses = 2, tc.counted
			now := made.Add(tc.at)
			if !setTokenStatus(token, tc.uses, now, now) || setTokenStatus(token, tc.uses, now, now) {
				t.Error("it changes not once")
			}
			if want := max(tc.counted, tc.uses); token.Status.Uses != want {
				t.Errorf("%d uses, want %d", token.Status.Uses, want)
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
	made := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	decided := made.Add(time.Hour)
	// When the server sees it, by its own clock.
	now := made.Add(-1000 * time.Hour)
	key, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	for name, tc := range map[string]struct {
		decisions []string
		names     string
		pending   metav1.ConditionStatus
		approved  bool
		end       time.Time
	}{
		"new":                       {nil, "", metav1.ConditionTrue, false, now.Add(pendingRetention)},
		"approved":                  {[]string{v1alpha1.RequestApproved}, key, metav1.ConditionFalse, true, now.Add(answeredRetention)},
		"another key approved":      {[]string{v1alpha1.RequestApproved}, other, metav1.ConditionTrue, false, now.Add(pendingRetention)},
		"approved by name alone":    {[]string{v1alpha1.RequestApproved}, "", metav1.ConditionTrue, false, now.Add(pendingRetention)},
		"a key named, not approved": {nil, key, metav1.ConditionTrue, false, now.Add(pendingRetention)},
		"denied":                    {[]string{v1alpha1.RequestDenied}, "", metav1.ConditionFalse, false, now.Add(deniedRetention)},
		"approved, then denied":     {[]string{v1alpha1.RequestApproved, v1alpha1.RequestDenied}, key, metav1.ConditionFalse, false, now.Add(deniedRetention)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &v1alpha1.EnrollmentRequest{ObjectMeta: metav1.ObjectMeta{Name: "edge-1", CreationTimestamp: metav1.NewTime(made)}}
			r.Spec.KeyFingerprint, r.Status.ApprovedKeyFingerprint = key, tc.names
			for _, d := range tc.decisions {
				meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{Type: d, Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(decided)})
			}
			if !setRequestStatus(r, now) || setRequestStatus(r, now.Add(time.Hour)) {
				t.Error("it changes not once")
			}
			c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.RequestPending)
			if c.Status != tc.pending || r.IsApproved() != tc.approved {
				t.Errorf("conditions are %+v", r.Status.Conditions)
			}
			if waits := tc.pending == metav1.ConditionTrue; waits != strings.Contains(c.Message, wire.ShowFingerprint(key)) {
				t.Errorf("it says %q", c.Message)
			}
			if end := endOf(r); !end.Equal(tc.end) {
				t.Errorf("it ends at %v, want %v", end, tc.end)
			}
		})
	}
}
