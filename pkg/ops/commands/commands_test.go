package commands_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/ops"
	"fleet.nationtech.io/fleet/pkg/ops/commands"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/golden"
)

func TestWhatADecisionShows(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 1, 1, 0, 1, 0, 0, time.UTC)
	r := &v1alpha1.EnrollmentRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "edge-1", CreationTimestamp: metav1.NewTime(now.Add(-time.Minute))},
		Spec: v1alpha1.EnrollmentRequestSpec{
			KeyFingerprint: wire.Sum([]byte("one")).String(), HardwareID: wire.Sum([]byte("machine")).String(), Address: "192.0.2.7", Token: "hbq3x7ka", CSR: "x",
			Inventory: &v1alpha1.Inventory{Hostname: "pi\x1b[2J"}, Replaces: true,
		},
	}
	var b strings.Builder
	if err := commands.ShowRequest(&b, r, now); err != nil {
		t.Fatal(err)
	}
	b.WriteString("\n")
	d := &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}}
	d.Status.Claimants = []v1alpha1.DeviceClaimant{
		{Session: "4f2ac19d03be", Current: true, Address: "192.0.2.7", KeyFingerprint: wire.Sum([]byte("one")).String(), HardwareID: "a"},
		{Session: "77ab0e21c5d9", Address: "198.51.100.23", KeyFingerprint: wire.Sum([]byte("two")).String(), HardwareID: "b"},
	}
	b.WriteString(commands.Claims(&b, d, ops.ErrNoSession).Error() + "\n")
	golden.Compare(t, "decisions", b.String())
}

// A name works as kubectl prints it, with its kind.
func TestNamesWithTheirKind(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]string{
		"edge-1":                            "edge-1",
		"device.fleet.nationtech.io/edge-1": "edge-1",
		"devices/edge-1":                    "edge-1",
		"fleetdev/edge-1":                   "edge-1",
		"enrollmentrequest.fleet.nationtech.io/edge-1": "edge-1",
		"node/edge-1": "node/edge-1",
		"/edge-1":     "/edge-1",
	} {
		if got := commands.BareName(arg); got != want {
			t.Errorf("%s is %s, want %s", arg, got, want)
		}
	}
}
