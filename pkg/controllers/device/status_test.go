package device_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/device"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	yes     = metav1.ConditionTrue
	no      = metav1.ConditionFalse
	unknown = metav1.ConditionUnknown
)

var (
	podmanAnswers = []wire.Condition{{Type: wire.ConditionPodmanReady, Status: wire.ConditionTrue, Reason: "PodmanAnswers"}}
	podmanIsDown  = []wire.Condition{{Type: wire.ConditionPodmanReady, Status: wire.ConditionFalse, Reason: "PodmanUnavailable", Message: "no socket"}}

	heardAt = time.Date(2026, 11, 21, 10, 0, 0, 123, time.UTC)
)

// brief is a condition as "status reason".
func brief(s *v1alpha1.DeviceStatus) map[string]string {
	b := map[string]string{}
	for _, c := range s.Conditions {
		b[c.Type] = string(c.Status) + " " + c.Reason
	}
	return b
}

// after returns a device whose status is that of a sighting.
func after(d *v1alpha1.Device, last time.Time, present, settled bool, reported []wire.Condition) *v1alpha1.Device {
	d = d.DeepCopy()
	d.Status = *device.NewStatus(d, last, present, settled, reported)
	return d
}

func TestStatusFollowsTheSighting(t *testing.T) {
	t.Parallel()
	fresh := &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "edge-1", Generation: 3}}
	online := after(fresh, heardAt, true, true, podmanAnswers)
	offline := after(online, time.Time{}, false, true, podmanAnswers)
	revoke := func(d *v1alpha1.Device) *v1alpha1.Device {
		d = d.DeepCopy()
		d.Spec.Revoked = true
		return d
	}
	for name, tc := range map[string]struct {
		device           *v1alpha1.Device
		present, settled bool
		reported         []wire.Condition
		want             map[string]string
	}{
		"never connected": {fresh, false, false, nil, map[string]string{
			"Connected": "False NeverConnected", "Ready": "False NeverConnected", "Reconciling": "True NeverConnected",
		}},
		"never connected, settled": {fresh, false, true, nil, map[string]string{
			"Connected": "False NeverConnected", "Ready": "False NeverConnected", "Reconciling": "True NeverConnected",
		}},
		"heard, nothing reported": {fresh, true, true, nil, map[string]string{
			"Connected": "True HeartbeatsArrive", "Ready": "Unknown PodmanNotReady", "Reconciling": "True PodmanNotReady",
		}},
		"ready": {fresh, true, true, podmanAnswers, map[string]string{
			"Connected": "True HeartbeatsArrive", "PodmanReady": "True PodmanAnswers", "Ready": "True Operational",
		}},
		"podman is down": {online, true, true, podmanIsDown, map[string]string{
			"Connected": "True HeartbeatsArrive", "PodmanReady": "False PodmanUnavailable", "Ready": "False PodmanNotReady", "Stalled": "True PodmanNotReady",
		}},
		"a report without podman": {online, true, true, nil, map[string]string{
			"Connected": "True HeartbeatsArrive", "PodmanReady": "True PodmanAnswers", "Ready": "True Operational",
		}},
		"silent": {online, false, true, podmanAnswers, map[string]string{
			"Connected": "False NoHeartbeat", "PodmanReady": "Unknown Disconnected", "Ready": "False NoHeartbeat", "Reconciling": "True NoHeartbeat",
		}},
		// The server started a moment ago: it may still come back.
		"not settled": {online, false, false, podmanAnswers, map[string]string{
			"Connected": "True HeartbeatsArrive", "PodmanReady": "True PodmanAnswers", "Ready": "True Operational",
		}},
		"was gone, not settled": {offline, false, false, podmanAnswers, map[string]string{
			"Connected": "False NoHeartbeat", "PodmanReady": "Unknown Disconnected", "Ready": "False NoHeartbeat", "Reconciling": "True NoHeartbeat",
		}},
		"back": {offline, true, true, podmanAnswers, map[string]string{
			"Connected": "True HeartbeatsArrive", "PodmanReady": "True PodmanAnswers", "Ready": "True Operational",
		}},
		"revoked": {revoke(online), true, true, podmanAnswers, map[string]string{
			"Connected": "False Revoked", "PodmanReady": "Unknown Disconnected", "Ready": "False Revoked", "Stalled": "True Revoked",
		}},
		"revoked, not settled": {revoke(online), false, false, nil, map[string]string{
			"Connected": "False Revoked", "PodmanReady": "Unknown Disconnected", "Ready": "False Revoked", "Stalled": "True Revoked",
		}},
		"conditions of others": {fresh, true, true, []wire.Condition{
			{Type: "Ready", Status: wire.ConditionTrue, Reason: "ISaySo"}, {Type: "Connected", Status: wire.ConditionFalse, Reason: "ISaySo"},
			{Type: "Lunch", Status: wire.ConditionTrue, Reason: "ISaySo"},
		}, map[string]string{"Connected": "True HeartbeatsArrive", "Ready": "Unknown PodmanNotReady", "Reconciling": "True PodmanNotReady"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := device.NewStatus(tc.device, heardAt, tc.present, tc.settled, tc.reported)
			if status.ObservedGeneration != tc.device.Generation {
				t.Errorf("it describes generation %d", status.ObservedGeneration)
			}
			if diff := cmp.Diff(tc.want, brief(status)); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			again := tc.device.DeepCopy()
			again.Status = *status
			if !equality.Semantic.DeepEqual(device.NewStatus(again, heardAt, tc.present, tc.settled, tc.reported), status) {
				t.Error("the same sighting changes the status again")
			}
		})
	}
}

// A restored store does not know why a device is refused: its status says so, and
// says it once.
func TestRefusedDeviceIsStalled(t *testing.T) {
	t.Parallel()
	d := after(&v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "edge-1", Generation: 3}}, heardAt, true, true, podmanAnswers)
	d = after(d, time.Time{}, false, true, nil)
	for i := range d.Status.Conditions {
		d.Status.Conditions[i].LastTransitionTime = metav1.NewTime(heardAt.Truncate(time.Second))
	}
	d.Status = *device.NewRefusedStatus(d)
	want := map[string]string{"Connected": "False KeyRefused", "PodmanReady": "Unknown Disconnected", "Ready": "False KeyRefused", "Stalled": "True KeyRefused"}
	if diff := cmp.Diff(want, brief(&d.Status)); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	meta.FindStatusCondition(d.Status.Conditions, "Stalled").LastTransitionTime = metav1.NewTime(heardAt.Truncate(time.Second))
	if again := device.NewRefusedStatus(d); !equality.Semantic.DeepEqual(again, &d.Status) {
		t.Errorf("it is written again:\n%s", cmp.Diff(&d.Status, again))
	}
}

// An agent that is refused is told from one that is away, also right after a start of the server,
// and one that is there again is not too old any more.
func TestDeviceWhoseAgentIsTooOldIsStalled(t *testing.T) {
	t.Parallel()
	fresh := &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "edge-1", Generation: 3}}
	online := after(fresh, heardAt, true, true, podmanAnswers)
	want := map[string]string{"Connected": "False AgentTooOld", "Ready": "False AgentTooOld", "Stalled": "True AgentTooOld"}
	if diff := cmp.Diff(want, brief(device.NewTooOldStatus(fresh, true))); diff != "" {
		t.Errorf("one that never connected (-want +got):\n%s", diff)
	}
	want["PodmanReady"] = "Unknown Disconnected"
	old := online.DeepCopy()
	old.Status = *device.NewTooOldStatus(online, false)
	if diff := cmp.Diff(want, brief(&old.Status)); diff != "" {
		t.Errorf("one that was there (-want +got):\n%s", diff)
	}
	back := map[string]string{"Connected": "True HeartbeatsArrive", "PodmanReady": "True PodmanAnswers", "Ready": "True Operational"}
	if diff := cmp.Diff(back, brief(&after(old, heardAt, true, true, podmanAnswers).Status)); diff != "" {
		t.Errorf("one that is back (-want +got):\n%s", diff)
	}
	revoked := old.DeepCopy()
	revoked.Spec.Revoked = true
	if got := brief(device.NewTooOldStatus(revoked, true))["Ready"]; got != "False Revoked" {
		t.Errorf("one that was revoked is %s", got)
	}
}

func TestLastSeenMovesWithTransitionsOnly(t *testing.T) {
	t.Parallel()
	d := &v1alpha1.Device{}
	if d = after(d, time.Time{}, false, true, nil); d.Status.LastSeen != nil {
		t.Errorf("a device that never came was seen at %s", d.Status.LastSeen)
	}
	d = after(d, heardAt, true, true, nil)
	if want := heardAt.Truncate(time.Second); !d.Status.LastSeen.Time.Equal(want) {
		t.Errorf("last seen at %s, want %s", d.Status.LastSeen, want)
	}
	first := d.Status.LastSeen
	if d = after(d, heardAt.Add(time.Minute), true, true, nil); !d.Status.LastSeen.Equal(first) {
		t.Error("a heartbeat moves it")
	}
	d = after(d, time.Time{}, false, true, nil)
	gone := d.Status.LastSeen
	if time.Since(gone.Time).Abs() > time.Hour {
		t.Errorf("it went at %s", gone)
	}
	if d = after(d, time.Time{}, false, true, nil); !d.Status.LastSeen.Equal(gone) {
		t.Error("absence moves it")
	}
}

// No condition of a device can keep its own object from being written.
func TestHostileConditionsBecomeValid(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		rapid.Just(strings.Repeat("é", 2000)), rapid.Just(strings.Repeat("A", 200)), rapid.Just("Good"))
	rapid.Check(t, func(t *rapid.T) {
		reported := []wire.Condition{{
			Type:   rapid.SampledFrom(wire.DeviceConditions).Draw(t, "type"),
			Status: wire.ConditionStatus(rapid.OneOf(rapid.SampledFrom([]string{"True", "False", "Unknown"}), text).Draw(t, "status")),
			Reason: text.Draw(t, "reason"), Message: text.Draw(t, "message"),
		}}
		s := device.NewStatus(&v1alpha1.Device{}, heardAt, true, true, reported)
		for _, c := range s.Conditions {
			if c.Status != yes && c.Status != no && c.Status != unknown {
				t.Fatalf("status %q", c.Status)
			}
			if errs := validation.IsConfigMapKey(c.Reason); c.Reason == "" || len(c.Reason) > 128 || len(errs) > 0 {
				t.Fatalf("reason %q", c.Reason)
			}
			if len(c.Message) > 1024 || !utf8.ValidString(c.Message) {
				t.Fatalf("message %q", c.Message)
			}
		}
	})
	s := device.NewStatus(&v1alpha1.Device{}, heardAt, true, true, podmanIsDown)
	if c := meta.FindStatusCondition(s.Conditions, "PodmanReady"); c.Reason != "PodmanUnavailable" || c.Message != "no socket" {
		t.Errorf("an ordinary condition became %+v", c)
	}
}

// What an earlier version stored as a hardware id steers no terminal, and is cut between
// characters.
func TestAbbreviated(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "unknown", "0123456789abcdef": "0123456789ab", "ööööööööööööö": "öööööööööööö", "\x1b[2J": `\u001b[2J`, "0123456789a\xff\xff": "0123456789a\ufffd",
	} {
		if got := device.Abbreviated(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

func TestWhyAStatusIsWritten(t *testing.T) {
	t.Parallel()
	status := func(connected metav1.ConditionStatus, nonce, label string) *v1alpha1.DeviceStatus {
		s := &v1alpha1.DeviceStatus{Session: label, Nonce: &v1alpha1.DeviceNonce{Shown: nonce}}
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.DeviceConnected, Status: connected, LastTransitionTime: metav1.NewTime(time.Unix(1, 0))})
		return s
	}
	const yes, no = metav1.ConditionTrue, metav1.ConditionFalse
	for _, tc := range []struct {
		old, now *v1alpha1.DeviceStatus
		want     string
	}{
		{&v1alpha1.DeviceStatus{}, status(yes, "a", "x"), "connected"}, {status(no, "a", "x"), status(yes, "b", "y"), "connected"},
		{status(yes, "a", "x"), status(no, "a", "x"), "disconnected"}, {&v1alpha1.DeviceStatus{}, status(no, "", ""), "status"},
		{status(yes, "a", "x"), status(yes, "b", "x"), "nonce"}, {status(yes, "a", "x"), status(yes, "b", "y"), "status"},
	} {
		if got := device.ReasonOf(tc.old, tc.now); got != tc.want {
			t.Errorf("from %+v to %+v: %s, want %s", tc.old, tc.now, got, tc.want)
		}
		if tc.now.Nonce == tc.old.Nonce {
			t.Error("it changes the status")
		}
	}
}
