package ops_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/ops"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestTokenSpecsAreChecked(t *testing.T) {
	t.Parallel()
	good := ops.TokenSpec{TTL: time.Hour, Uses: 1, Labels: map[string]string{"site": "lausanne"}, AllowedLabelKeys: []string{"rack"}, HardwareIDs: []string{wire.Sum(nil).String()}}
	for name, tc := range map[string]struct {
		change func(*ops.TokenSpec)
		says   string
	}{
		"good":                     {func(*ops.TokenSpec) {}, ""},
		"no time":                  {func(s *ops.TokenSpec) { s.TTL = 0 }, "ttl 0s"},
		"no uses":                  {func(s *ops.TokenSpec) { s.Uses = 0 }, "uses 0"},
		"a bad key":                {func(s *ops.TokenSpec) { s.Labels = map[string]string{"a b": ""} }, `label "a b="`},
		"a bad value":              {func(s *ops.TokenSpec) { s.Labels = map[string]string{"a": "b c"} }, `label "a=b c"`},
		"the server's own label":   {func(s *ops.TokenSpec) { s.Labels = map[string]string{v1alpha1.LabelDeviceID: "x"} }, "the server sets"},
		"a bad key to allow":       {func(s *ops.TokenSpec) { s.AllowedLabelKeys = []string{"a b"} }, `allow-label "a b"`},
		"the server's key allowed": {func(s *ops.TokenSpec) { s.AllowedLabelKeys = []string{v1alpha1.LabelDeviceID} }, "the server sets"},
		"no hash":                  {func(s *ops.TokenSpec) { s.HardwareIDs = []string{"x\n"} }, "hardware-id"},
	} {
		spec := good
		tc.change(&spec)
		check(t, name, spec.Check(), tc.says)
	}
}

func TestSessionsAreChecked(t *testing.T) {
	t.Parallel()
	device := func(status metav1.ConditionStatus) *v1alpha1.Device {
		return &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}, Status: v1alpha1.DeviceStatus{
			Conditions: []metav1.Condition{{Type: v1alpha1.DeviceCloneSuspected, Status: status}}, Claimants: []v1alpha1.DeviceClaimant{{Session: "4f2ac19d03be"}},
		}}
	}
	check(t, "a claimant", ops.CheckSession(device(metav1.ConditionTrue), "4f2ac19d03be"), "")
	check(t, "another", ops.CheckSession(device(metav1.ConditionTrue), "000000000000"), "does not claim")
	check(t, "not suspected", ops.CheckSession(device(metav1.ConditionFalse), "4f2ac19d03be"), "nothing to decide")
	if err := ops.CheckSession(device(metav1.ConditionTrue), ""); !errors.Is(err, ops.ErrNoSession) {
		t.Errorf("no session: %v", err)
	}
}

func TestFingerprintsAreChecked(t *testing.T) {
	t.Parallel()
	o := &ops.Operator{Program: ops.Program{Device: "tool device"}}
	r := &v1alpha1.EnrollmentRequest{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}, Spec: v1alpha1.EnrollmentRequestSpec{KeyFingerprint: wire.Sum([]byte("key")).String()}}
	check(t, "as the device shows it", o.CheckFingerprint(r, wire.ShowFingerprint(r.Spec.KeyFingerprint)), "")
	check(t, "another key's", o.CheckFingerprint(r, wire.ShowFingerprint(wire.Sum([]byte("other")).String())), "another key: it is another machine, deny it with `tool device deny edge-1`")
	check(t, "too short", o.CheckFingerprint(r, r.Spec.KeyFingerprint[:4]), "fingerprint: ")
}

// check wants an error that says something, or none when that is empty.
func check(t *testing.T, name string, err error, says string) {
	t.Helper()
	if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
		t.Errorf("%s: error is %v, want one that says %q", name, err, says)
	}
}
