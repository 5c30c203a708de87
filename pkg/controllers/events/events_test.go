package events_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
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
		"comes back bad":        {status{Conditions: all(connected(no), podman(unknown), held(unknown))}, status{Conditions: all(connected(yes), podman(no), held(yes))}, false, []string{"Connected", "Unhealthy", "ManifestHeld"}},
		"comes back better":     {status{Conditions: all(connected(no), podman(no))}, status{Conditions: all(connected(yes), podman(yes))}, false, []string{"Connected", "Healthy"}},
		"bad from the first":    {status{Conditions: all(connected(yes))}, status{Conditions: all(connected(yes), podman(no))}, false, []string{"Unhealthy"}},
		"good from the first":   {status{Conditions: all(connected(yes))}, status{Conditions: all(connected(yes), podman(yes))}, false, nil},
		"away, whatever it was": {status{Conditions: all(connected(yes), podman(no))}, status{Conditions: all(connected(no), podman(unknown))}, false, []string{"Disconnected"}},
		"holds":                 {status{Conditions: all(connected(yes), held(no))}, status{Conditions: all(connected(yes), held(yes))}, false, []string{"ManifestHeld"}},
		"holds no more":         {status{Conditions: all(connected(yes), held(yes))}, status{Conditions: all(connected(yes), held(no))}, false, []string{"ManifestReleased"}},
		"may not run it":        {status{Conditions: all(connected(yes), allowed(yes))}, status{Conditions: all(connected(yes), allowed(no))}, false, []string{"ScoresNotAllowed"}},
		"may run it":            {status{Conditions: all(connected(yes), allowed(no))}, status{Conditions: all(connected(yes), allowed(yes))}, false, []string{"ScoresAllowed"}},
		"lacks a label":         {status{Conditions: all(connected(no))}, status{Conditions: all(connected(no), rendered(no, "a"))}, false, []string{"RenderingFailed"}},
		"lacks another one":     {status{Conditions: all(connected(no), rendered(no, "a"))}, status{Conditions: all(connected(no), rendered(no, "b"))}, false, []string{"RenderingFailed"}},
		"lacks it still":        {status{Conditions: all(connected(no), rendered(no, "a"))}, status{Conditions: all(connected(no), rendered(no, "a"))}, false, nil},
		"has it":                {status{Conditions: all(connected(yes), rendered(no, "a"))}, status{Conditions: all(connected(yes), rendered(yes, "c"))}, false, []string{"Rendered"}},
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

// A machine that takes the place of another enrolls, and so does one that an operator prepared a
// Device for. A renewal is none.
func TestWhoEnrollsIsTold(t *testing.T) {
	t.Parallel()
	early, late := metav1.NewTime(time.Unix(1e9, 0)), metav1.NewTime(time.Unix(2e9, 0))
	type enrollment = v1alpha1.DeviceEnrollment
	first := enrollment{KeyFingerprint: "a", Token: "t", TokenUse: 1, EnrolledAt: &early}
	renewing, renewed, second, another, later := first, first, first, first, first
	renewing.NextKeyFingerprint, renewed.KeyFingerprint = "b", "b"
	second.TokenUse, another.Token, later.EnrolledAt = 2, "u", &late
	for name, tc := range map[string]struct {
		before, now *enrollment
		unseen      bool
		want        []string
	}{
		"nobody":                    {},
		"as before":                 {before: &first, now: &first},
		"renews":                    {before: &first, now: &renewing},
		"has renewed":               {before: &renewing, now: &renewed},
		"the first":                 {now: &first, want: []string{"Enrolled"}},
		"the first, status unseen":  {now: &first, unseen: true}, // OfDevice tells it
		"another with the token":    {before: &first, now: &second, want: []string{"Enrolled"}},
		"another with another":      {before: &first, now: &another, want: []string{"Enrolled"}},
		"of a token without number": {before: &first, now: &later, want: []string{"Enrolled"}},
		"its keys are taken away":   {before: &first},
	} {
		of := func(e *enrollment) *v1alpha1.Device {
			d := device("edge-1")
			if d.Spec.Enrollment = e; !tc.unseen {
				d.Status.Conditions = []metav1.Condition{condition(v1alpha1.DeviceConnected, metav1.ConditionFalse, "r", "m")}
			}
			return d
		}
		if diff := cmp.Diff(tc.want, reasons(events.OfEnrollment(of(tc.before), of(tc.now)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestWhatHappenedToARollout(t *testing.T) {
	t.Parallel()
	status := func(generation int64, available metav1.ConditionStatus, reason string, matched, failed int) v1alpha1.DeploymentStatus {
		a := &v1alpha1.Aggregate{MatchedDeviceCount: matched, Failed: failed}
		if available == metav1.ConditionTrue {
			a.Succeeded = matched
		}
		return v1alpha1.DeploymentStatus{
			ObservedGeneration: generation, Aggregate: a,
			Conditions: []metav1.Condition{condition(v1alpha1.DeploymentAvailable, available, reason, "m")},
		}
	}
	const yes, no = metav1.ConditionTrue, metav1.ConditionFalse
	rolling := func(generation int64) v1alpha1.DeploymentStatus {
		return status(generation, no, v1alpha1.ReasonRolling, 9, 0)
	}
	failing := func(generation int64, n int) v1alpha1.DeploymentStatus {
		return status(generation, no, v1alpha1.ReasonDevicesFailed, 9, n)
	}
	done := func(generation int64) v1alpha1.DeploymentStatus {
		return status(generation, yes, v1alpha1.ReasonComplete, 9, 0)
	}
	held, none := status(1, no, v1alpha1.ReasonHeld, 9, 0), status(1, no, v1alpha1.ReasonNoDevicesMatched, 0, 0)
	for name, tc := range map[string]struct {
		before, now v1alpha1.DeploymentStatus
		told        int
		want        []string
		tells       int
	}{
		"begins":                    {v1alpha1.DeploymentStatus{}, rolling(1), 0, nil, 0},
		"matches nothing":           {v1alpha1.DeploymentStatus{}, none, 0, nil, 0},
		"is done":                   {rolling(1), done(1), 0, []string{"RolledOut"}, 0},
		"stays done":                {done(1), done(1), 0, nil, 0},
		"the next one, at once":     {done(1), done(2), 0, []string{"RolledOut"}, 0},
		"fails":                     {rolling(1), failing(1, 1), 0, []string{"DevicesFailed"}, 1},
		"fails on many at once":     {rolling(1), failing(1, 7), 0, []string{"DevicesFailed"}, 7},
		"fails on as many":          {failing(1, 3), failing(1, 3), 3, nil, 3},
		"fails on more":             {failing(1, 3), failing(1, 5), 3, nil, 3},
		"fails on twice as many":    {failing(1, 5), failing(1, 6), 3, []string{"DevicesFailed"}, 6},
		"fails on fewer, then more": {failing(1, 1), failing(1, 5), 3, nil, 3},
		"recovers":                  {failing(1, 1), done(1), 1, []string{"Recovered"}, 0},
		"recovers, others wait":     {failing(1, 1), rolling(1), 1, []string{"Recovered"}, 0},
		"is done afterwards":        {rolling(1), done(1), 0, []string{"RolledOut"}, 0},
		"those that failed go":      {failing(1, 1), none, 1, []string{"Recovered"}, 0},
		"fails again afterwards":    {done(1), failing(1, 1), 0, []string{"DevicesFailed"}, 1},
		"is refused meanwhile":      {failing(1, 1), held, 1, nil, 0},
		"another score":             {failing(1, 1), rolling(2), 1, nil, 0},
		"another one, at once":      {failing(1, 1), done(2), 1, []string{"RolledOut"}, 0},
		"another that fails, too":   {failing(1, 3), failing(2, 3), 3, []string{"DevicesFailed"}, 3},
	} {
		got, tells := events.OfRollout(&tc.before, &tc.now, tc.told)
		if diff := cmp.Diff(tc.want, reasons(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if tells != tc.tells {
			t.Errorf("%s: %d were told, want %d", name, tells, tc.tells)
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
	got, _ := events.OfRollout(&v1alpha1.DeploymentStatus{}, &now, 0)
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
		events.Record(r, device(fmt.Sprint("d", i)), connected)
	}
	told := len(fake.Events)
	if told < 50 || told > many/2 {
		t.Errorf("%d of %d were told", told, many)
	}
	for what, tell := range map[string]func(){
		"a warning":           func() { events.Record(r, device("d1"), unhealthy) },
		"what else happens":   func() { events.Record(r, device("d1"), events.DeviceRenewed(time.Now())) },
		"what is urgent":      func() { events.Record(r, device("d1"), events.DeviceRevoked("revoked")) },
		"of a Deployment":     func() { events.Record(r, &v1alpha1.Deployment{}, events.OfVerdict(true, "Valid", "m")) },
		"what is urgent, too": func() { events.Record(r, device("d1"), events.CloneSuspected("d1", "m", false)) },
	} {
		before := len(fake.Events)
		if tell(); len(fake.Events) != before+1 {
			t.Errorf("%s has no room beside devices that come and go", what)
		}
	}
}

var (
	connected    = events.Event{Type: corev1.EventTypeNormal, Reason: "Connected", Message: "m"}
	disconnected = events.Event{Type: corev1.EventTypeNormal, Reason: "Disconnected", Message: "m"}
	unhealthy    = events.Event{Type: corev1.EventTypeWarning, Reason: "Unhealthy", Message: "podman does not answer"}
)

func device(name string) *v1alpha1.Device {
	return &v1alpha1.Device{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Device"},
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
	}
}

// Devices that invent reasons to warn, or that come and go, keep nothing else from being
// told, not even of themselves what matters most.
func TestOneObjectKeepsNoOthersEventsOut(t *testing.T) {
	t.Parallel()
	const many = 1000
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
		events.Record(r, device("loud"), connected)
		events.Record(r, device("loud"), events.CloneSuspected("loud", "m", false))
		events.Record(r, device("loud"), events.DeviceRevoked("revoked"))
		if len(fake.Events) != told+5 {
			t.Errorf("%s: %d of 5 more were told", typ, len(fake.Events)-told)
		}
	}
}

// sink is an API that counts writes of events.
type sink struct {
	mu     sync.Mutex // guards what follows
	writes int
	// created are the events that there are, as "object reason".
	created []string
}

func (s *sink) wrote(e *corev1.Event, created bool) (*corev1.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if created {
		s.created = append(s.created, e.InvolvedObject.Name+" "+e.Reason)
	}
	return e, nil
}

func (s *sink) Create(e *corev1.Event) (*corev1.Event, error)          { return s.wrote(e, true) }
func (s *sink) Update(e *corev1.Event) (*corev1.Event, error)          { return s.wrote(e, false) }
func (s *sink) Patch(e *corev1.Event, _ []byte) (*corev1.Event, error) { return s.wrote(e, false) }

func recorderTo(s *sink) (r *events.Recorder, stop func()) {
	b := events.NewBroadcaster()
	b.StartRecordingToSink(s)
	return events.NewRecorder(b.NewRecorder(client.Scheme(), corev1.EventSource{Component: "fleet-server"})), b.Shutdown
}

// A thousand devices that flap, and are unhealthy each time, cost the API a bounded number of
// writes, and as many events as there are devices and reasons. What happens to others
// meanwhile is told.
func TestAThousandFlappingDevices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const devices, rounds, pause = 1000, 60, 10 * time.Second
		s := &sink{}
		r, stop := recorderTo(s)
		all := make([]*v1alpha1.Device, devices)
		for i := range all {
			all[i] = device(fmt.Sprint("edge-", i))
		}
		for round := range rounds {
			for _, d := range all {
				events.Record(r, d, disconnected, connected, unhealthy)
			}
			if round == rounds/2 {
				events.Record(r, device("quiet"), events.DeviceApproved("k"), events.DeviceRevoked("revoked"))
				events.Record(r, &v1alpha1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "default"}}, events.OfVerdict(false, "Invalid", "m"))
			}
			time.Sleep(pause)
		}
		stop()
		synctest.Wait()
		// 5 a second of one class and 10 of the other, and what is let through at once.
		most := int((rounds*pause).Seconds())*(5+10) + 100 + 200 + 3
		if s.writes > most || s.writes < most/2 {
			t.Errorf("ten minutes cost %d writes, want %d at most and not much less", s.writes, most)
		}
		if n := len(s.created); n > 3*devices+3 {
			t.Errorf("there are %d events", n)
		}
		for _, want := range []string{"quiet Approved", "quiet Revoked", "shop Invalid"} {
			if !slices.Contains(s.created, want) {
				t.Errorf("nobody is told: %s", want)
			}
		}
	})
}

// A device that was unhealthy all day, and is revoked: somebody reads so.
func TestWhatMattersIsToldOfAFlappingDevice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		r, stop := recorderTo(s)
		for range 1000 {
			time.Sleep(time.Minute)
			events.Record(r, device("edge-1"), disconnected, connected, unhealthy)
		}
		events.Record(r, device("edge-1"), events.DeviceRevoked("revoked"))
		synctest.Wait()
		stop()
		synctest.Wait()
		want := []string{"edge-1 Disconnected", "edge-1 Connected", "edge-1 Unhealthy", "edge-1 Revoked"}
		if diff := cmp.Diff(want, s.created); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// kubectl shows a reason as a column, and a message as a line.
func TestEveryEventHasOneWordAndALine(t *testing.T) {
	t.Parallel()
	d := device("edge-1")
	d.Spec.Enrollment = &v1alpha1.DeviceEnrollment{Token: "t"}
	all := []events.Event{
		events.DeviceApproved("k"), events.DeviceRenewed(time.Now()), events.DeviceRevoked("revoked"), events.AgentTooOld(), events.LabelsNotGranted(),
		events.ArchitectureChanged(), events.LabelsDropped([]string{"a", "b"}), events.CloneSuspected("edge-1", "m", true), events.SessionUnknown("s"),
		events.SessionRefused("edge-1", "s"), events.OfVerdict(true, "Valid", "m"), events.OfVerdict(false, "Invalid", "m"), events.TokenUnusable("Expired", "m"),
		events.RequestAwaitsOperator("edge-1", "k"), events.RequestDenied("k"), events.RequestNotGranted("m"),
	}
	bad := []metav1.Condition{
		condition(v1alpha1.DeviceConnected, metav1.ConditionTrue, "r", "m"), condition(v1alpha1.DevicePodmanReady, metav1.ConditionFalse, "r", ""),
		condition(v1alpha1.DeviceDiskPressure, metav1.ConditionTrue, "r", ""), condition(v1alpha1.DeviceManifestHeld, metav1.ConditionTrue, "r", ""),
	}
	all = append(all, events.OfDevice(d, &v1alpha1.DeviceStatus{Conditions: bad})...)
	if len(all) != 16+5 {
		t.Fatalf("%d events: of the device, %v", len(all), reasons(all))
	}
	for _, e := range all {
		if !word.MatchString(e.Reason) || e.Message == "" || strings.Contains(e.Message, "\n") {
			t.Errorf("an event is %+v", e)
		}
	}
}

var word = regexp.MustCompile(`^([A-Z][a-z]+)+$`)
