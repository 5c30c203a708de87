package events_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/events"
)

func condition(typ string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: typ, Status: status, Reason: reason, Message: message}
}

func reasons(all []events.Event) (got []string) {
	for _, e := range all {
		got = append(got, e.Reason)
	}
	return got
}

func TestWhatHappenedToADevice(t *testing.T) {
	t.Parallel()
	const yes, no, unknown = metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	connected := func(s metav1.ConditionStatus) metav1.Condition {
		return condition(v1alpha1.DeviceConnected, s, "r", "m")
	}
	podman := func(s metav1.ConditionStatus) metav1.Condition {
		return condition(v1alpha1.DevicePodmanReady, s, "r", "no socket")
	}
	held := func(s metav1.ConditionStatus) metav1.Condition {
		return condition(v1alpha1.DeviceManifestHeld, s, "r", "an older manifest")
	}
	allowed := func(s metav1.ConditionStatus) metav1.Condition {
		return condition(v1alpha1.DeviceScoresAllowed, s, "r", "shop/web: service nvr: devices[0]")
	}
	rendered := func(s metav1.ConditionStatus, message string) metav1.Condition {
		return condition(v1alpha1.DeviceScoresRendered, s, "r", message)
	}
	early, late := metav1.NewTime(time.Unix(1e9, 0)), metav1.NewTime(time.Unix(2e9, 0))
	type status = v1alpha1.DeviceStatus
	all := func(c ...metav1.Condition) []metav1.Condition { return c }
	for name, tc := range map[string]struct {
		before, now status
		revoked     bool
		want        []string
	}{
		"enrolled, away":        {status{}, status{Conditions: all(connected(no))}, false, []string{"Enrolled"}},
		"enrolled, there":       {status{}, status{Conditions: all(connected(yes))}, false, []string{"Enrolled", "Connected"}},
		"comes back":            {status{Conditions: all(connected(no))}, status{Conditions: all(connected(yes))}, false, []string{"Connected"}},
		"stays":                 {status{Conditions: all(connected(yes))}, status{Conditions: all(connected(yes))}, false, nil},
		"goes":                  {status{Conditions: all(connected(yes), podman(yes))}, status{Conditions: all(connected(no), podman(unknown))}, false, []string{"Disconnected"}},
		"comes back as it was":  {status{Conditions: all(connected(no), podman(unknown))}, status{Conditions: all(connected(yes), podman(yes))}, false, []string{"Connected"}},
		"revoked":               {status{Conditions: all(connected(yes))}, status{Conditions: all(connected(no))}, true, nil},
		"podman fails":          {status{Conditions: all(connected(yes), podman(yes))}, status{Conditions: all(connected(yes), podman(no))}, false, []string{"Unhealthy"}},
		"podman is back":        {status{Conditions: all(connected(yes), podman(no))}, status{Conditions: all(connected(yes), podman(yes))}, false, []string{"Healthy"}},
		"podman was unknown":    {status{Conditions: all(connected(yes), podman(unknown))}, status{Conditions: all(connected(yes), podman(yes))}, false, nil},
		"unknown, then fails":   {status{Conditions: all(connected(yes), podman(unknown))}, status{Conditions: all(connected(yes), podman(no))}, false, []string{"Unhealthy"}},
		"reports for the first": {status{Conditions: all(connected(yes))}, status{Conditions: all(connected(yes), podman(no))}, false, nil},
		"holds":                 {status{Conditions: all(connected(yes), held(no))}, status{Conditions: all(connected(yes), held(yes))}, false, []string{"ManifestHeld"}},
		"holds no more":         {status{Conditions: all(connected(yes), held(yes))}, status{Conditions: all(connected(yes), held(no))}, false, []string{"ManifestReleased"}},
		"may not run it":        {status{Conditions: all(connected(yes), allowed(yes))}, status{Conditions: all(connected(yes), allowed(no))}, false, []string{"ScoresNotAllowed"}},
		"may run it":            {status{Conditions: all(connected(yes), allowed(no))}, status{Conditions: all(connected(yes), allowed(yes))}, false, []string{"ScoresAllowed"}},
		"lacks a label":         {status{Conditions: all(connected(no))}, status{Conditions: all(connected(no), rendered(no, "a"))}, false, []string{"RenderingFailed"}},
		"lacks another one":     {status{Conditions: all(connected(no), rendered(no, "a"))}, status{Conditions: all(connected(no), rendered(no, "b"))}, false, []string{"RenderingFailed"}},
		"lacks it still":        {status{Conditions: all(connected(no), rendered(no, "a"))}, status{Conditions: all(connected(no), rendered(no, "a"))}, false, nil},
		"has it":                {status{Conditions: all(connected(yes), rendered(no, "a"))}, status{Conditions: all(connected(yes), rendered(yes, "c"))}, false, []string{"Rendered"}},
		"renewed":               {status{Conditions: all(connected(yes)), CertificateExpires: &early}, status{Conditions: all(connected(yes)), CertificateExpires: &late}, false, []string{"Renewed"}},
		"first certificate":     {status{Conditions: all(connected(yes))}, status{Conditions: all(connected(yes)), CertificateExpires: &late}, false, nil},
		"an older one":          {status{Conditions: all(connected(yes)), CertificateExpires: &late}, status{Conditions: all(connected(yes)), CertificateExpires: &early}, false, nil},
	} {
		d := &v1alpha1.Device{Spec: v1alpha1.DeviceSpec{Revoked: tc.revoked, Enrollment: &v1alpha1.DeviceEnrollment{Token: "t"}}, Status: tc.before}
		got := events.OfDevice(d, &tc.now)
		if diff := cmp.Diff(tc.want, reasons(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for _, e := range got {
			if bad := slices.Contains([]string{"Unhealthy", "ManifestHeld", "ScoresNotAllowed", "RenderingFailed"}, e.Reason); (e.Type == corev1.EventTypeWarning) != bad {
				t.Errorf("%s: %s is %s", name, e.Reason, e.Type)
			}
		}
	}
}

func TestWhatHappenedToARollout(t *testing.T) {
	t.Parallel()
	status := func(generation int64, available metav1.ConditionStatus, reason string, matched, failed int) v1alpha1.DeploymentStatus {
		return v1alpha1.DeploymentStatus{
			ObservedGeneration: generation, Aggregate: &v1alpha1.Aggregate{MatchedDeviceCount: matched, Failed: failed},
			Conditions: []metav1.Condition{condition(v1alpha1.DeploymentAvailable, available, reason, "m")},
		}
	}
	const yes, no = metav1.ConditionTrue, metav1.ConditionFalse
	for name, tc := range map[string]struct {
		before, now v1alpha1.DeploymentStatus
		want        []string
	}{
		"begins":                 {v1alpha1.DeploymentStatus{}, status(1, no, v1alpha1.ReasonRolling, 3, 0), nil},
		"matches nothing":        {v1alpha1.DeploymentStatus{}, status(1, no, v1alpha1.ReasonNoDevicesMatched, 0, 0), nil},
		"is done":                {status(1, no, v1alpha1.ReasonRolling, 3, 0), status(1, yes, v1alpha1.ReasonComplete, 3, 0), []string{"RolledOut"}},
		"stays done":             {status(1, yes, v1alpha1.ReasonComplete, 3, 0), status(1, yes, v1alpha1.ReasonComplete, 3, 0), nil},
		"the next one, at once":  {status(1, yes, v1alpha1.ReasonComplete, 3, 0), status(2, yes, v1alpha1.ReasonComplete, 3, 0), []string{"RolledOut"}},
		"fails":                  {status(1, no, v1alpha1.ReasonRolling, 3, 0), status(1, no, v1alpha1.ReasonDevicesFailed, 3, 1), []string{"DevicesFailed"}},
		"fails on more":          {status(1, no, v1alpha1.ReasonDevicesFailed, 3, 1), status(1, no, v1alpha1.ReasonDevicesFailed, 3, 2), nil},
		"recovers":               {status(1, no, v1alpha1.ReasonDevicesFailed, 3, 1), status(1, yes, v1alpha1.ReasonComplete, 3, 0), []string{"Recovered"}},
		"fails again afterwards": {status(1, yes, v1alpha1.ReasonComplete, 3, 0), status(1, no, v1alpha1.ReasonDevicesFailed, 3, 1), []string{"DevicesFailed"}},
	} {
		if diff := cmp.Diff(tc.want, reasons(events.OfRollout(&tc.before, &tc.now))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The error of a device can be long, and is what the device says.
func TestFailureHasAnExample(t *testing.T) {
	t.Parallel()
	now := v1alpha1.DeploymentStatus{
		Aggregate:  &v1alpha1.Aggregate{MatchedDeviceCount: 9, Failed: 2, LastError: &v1alpha1.DeviceError{Device: "edge-1", Message: strings.Repeat("é", 400)}},
		Conditions: []metav1.Condition{condition(v1alpha1.DeploymentAvailable, metav1.ConditionFalse, v1alpha1.ReasonDevicesFailed, "m")},
	}
	got := events.OfRollout(&v1alpha1.DeploymentStatus{}, &now)
	if len(got) != 1 || !strings.Contains(got[0].Message, "2 devices of 9, such as edge-1: éé") || len(got[0].Message) > 400 || !utf8.ValidString(got[0].Message) {
		t.Errorf("it is told as %+v", got)
	}
}

// A site that comes back at once does not fill the store with news, and what is wrong
// is told all the same.
func TestEventsKeepToABudget(t *testing.T) {
	t.Parallel()
	const many = 1000
	fake := record.NewFakeRecorder(3 * many)
	r := events.NewRecorder(fake)
	for i := range many {
		d := &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("d", i)}}
		events.Record(r, d, events.Event{Type: corev1.EventTypeNormal, Reason: "Connected", Message: "m"})
	}
	told := len(fake.Events)
	if told < 50 || told > many/2 {
		t.Errorf("%d of %d were told", told, many)
	}
	events.Record(r, &v1alpha1.Device{}, events.DeviceRevoked("revoked"))
	if len(fake.Events) != told+1 {
		t.Error("a warning has no room beside what is normal")
	}
}

// Devices that invent reasons to warn, or that come and go, keep nothing else from being
// told, not even of themselves what matters most.
func TestOneObjectKeepsNoOthersEventsOut(t *testing.T) {
	t.Parallel()
	const many = 1000
	device := func(name string) *v1alpha1.Device { return &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	for typ, other := range map[string]string{corev1.EventTypeWarning: corev1.EventTypeNormal, corev1.EventTypeNormal: corev1.EventTypeWarning} {
		fake := record.NewFakeRecorder(3 * many)
		r := events.NewRecorder(fake)
		for i := range many {
			events.Record(r, device("loud"), events.Event{Type: typ, Reason: "LabelsDropped", Message: fmt.Sprint(i)})
		}
		told := len(fake.Events)
		if told < 5 || told > 20 {
			t.Errorf("%s: %d of %d were told", typ, told, many)
		}
		events.Record(r, device("quiet"), events.Event{Type: typ, Reason: "LabelsDropped", Message: "m"})
		events.Record(r, device("loud"), events.Event{Type: other, Reason: "LabelsDropped", Message: "m"})
		events.Record(r, device("loud"), events.CloneSuspected("loud", "m", false))
		events.Record(r, device("loud"), events.DeviceRevoked("revoked"))
		if len(fake.Events) != told+4 {
			t.Errorf("%s: %d of 4 more were told", typ, len(fake.Events)-told)
		}
	}
}
