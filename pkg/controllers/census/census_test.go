package census_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
	"fleet.nationtech.io/fleet/pkg/controllers/census"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// rig is a census of caches.
type rig struct {
	*census.Census
	t                 testing.TB
	devices, requests cache.Store
	ready             chan struct{}
	phases            map[assigner.Phase]int
}

func newRig(t testing.TB) *rig {
	r := &rig{
		t: t, devices: cache.NewStore(cache.MetaNamespaceKeyFunc), requests: cache.NewStore(cache.MetaNamespaceKeyFunc),
		ready: make(chan struct{}), phases: map[assigner.Phase]int{},
	}
	r.Census = census.New(census.Config{
		Ready: r.ready, Devices: r.devices, Requests: r.requests,
		Phases: func() map[assigner.Phase]int { return r.phases }, Now: func() time.Time { return now },
	})
	return r
}

func put(t testing.TB, s cache.Store, o any) {
	t.Helper()
	if err := s.Add(o); err != nil {
		t.Fatal(err)
	}
}

// shows compares the metrics of some names.
func (r *rig) shows(want string, names ...string) {
	r.t.Helper()
	if err := testutil.CollectAndCompare(r.Census, strings.NewReader(want), names...); err != nil {
		r.t.Error(err)
	}
}

func device(name string, conditions ...metav1.Condition) *v1alpha1.Device {
	return &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.DeviceStatus{Conditions: conditions}}
}

func condition(typ string, status metav1.ConditionStatus, reason string) metav1.Condition {
	return metav1.Condition{Type: typ, Status: status, Reason: reason}
}

var (
	connected = condition(v1alpha1.DeviceConnected, metav1.ConditionTrue, v1alpha1.ReasonHeartbeatsArrive)
	silent    = condition(v1alpha1.DeviceConnected, metav1.ConditionFalse, v1alpha1.ReasonNoHeartbeat)
	never     = condition(v1alpha1.DeviceConnected, metav1.ConditionFalse, v1alpha1.ReasonNeverConnected)
	refused   = condition(v1alpha1.DeviceConnected, metav1.ConditionFalse, v1alpha1.ReasonKeyRefused)
	good      = condition(v1alpha1.DeviceReady, metav1.ConditionTrue, v1alpha1.ReasonOperational)
	held      = condition(v1alpha1.DeviceManifestHeld, metav1.ConditionTrue, "EpochChanged")
	gone      = condition(v1alpha1.DeviceManifestHeld, metav1.ConditionUnknown, v1alpha1.ReasonDisconnected)
)

func TestEachDeviceIsInOneState(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	close(r.ready)
	revoked, deleted := device("revoked", connected, good, held), device("deleted", connected, good)
	revoked.Spec.Revoked, deleted.DeletionTimestamp = true, new(metav1.NewTime(now))
	for _, d := range []*v1alpha1.Device{
		device("new"), device("never", never), device("ready", connected, good), device("held", connected, good, held),
		device("without-podman", connected), device("offline", silent, gone), device("tombstone", refused), revoked, deleted,
	} {
		put(t, r.devices, d)
	}
	r.shows(`# HELP fleet_devices Devices by state: each is in one.
# TYPE fleet_devices gauge
fleet_devices{state="notReady"} 1
fleet_devices{state="offline"} 1
fleet_devices{state="ready"} 2
fleet_devices{state="registered"} 2
fleet_devices{state="revoked"} 3
# HELP fleet_manifests_held Connected devices that hold their manifest until an operator confirms.
# TYPE fleet_manifests_held gauge
fleet_manifests_held 1
`, "fleet_devices", "fleet_manifests_held")
}

func TestCertificatesAreCountedBeforeTheyExpire(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	close(r.ready)
	put(t, r.devices, device("never-connected", never))
	for i, left := range []time.Duration{31 * day, 30*day + time.Second, 30 * day, time.Second, 0, -day} {
		d := device(fmt.Sprint("device-", i), silent)
		d.Status.CertificateExpires = new(metav1.NewTime(now.Add(left)))
		put(t, r.devices, d)
	}
	out := device("revoked", refused)
	out.Status.CertificateExpires = new(metav1.NewTime(now))
	put(t, r.devices, out)
	r.shows(`# HELP fleet_device_certificates Certificates of devices that expire within 30 days, and that expired.
# TYPE fleet_device_certificates gauge
fleet_device_certificates{state="expired"} 2
fleet_device_certificates{state="expiring"} 2
`, "fleet_device_certificates")
}

func TestDeploymentsAndRequestsAreCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	close(r.ready)
	r.phases[assigner.Failed], r.phases[assigner.RollingOut] = 2, 1
	denied, approved := &v1alpha1.EnrollmentRequest{}, &v1alpha1.EnrollmentRequest{}
	denied.Name, denied.Status.Conditions = "denied", []metav1.Condition{condition(v1alpha1.RequestDenied, metav1.ConditionTrue, "No")}
	approved.Name, approved.Status.Conditions = "approved", []metav1.Condition{condition(v1alpha1.RequestApproved, metav1.ConditionTrue, "Yes")}
	waiting := &v1alpha1.EnrollmentRequest{ObjectMeta: metav1.ObjectMeta{Name: "waiting"}}
	for _, request := range []*v1alpha1.EnrollmentRequest{denied, approved, waiting} {
		put(t, r.requests, request)
	}
	r.shows(`# HELP fleet_deployments Deployments by phase: each is in one.
# TYPE fleet_deployments gauge
fleet_deployments{phase="accepted"} 0
fleet_deployments{phase="failed"} 2
fleet_deployments{phase="refused"} 0
fleet_deployments{phase="rolledOut"} 0
fleet_deployments{phase="rollingOut"} 1
# HELP fleet_enrollment_requests_waiting EnrollmentRequests that wait for an operator.
# TYPE fleet_enrollment_requests_waiting gauge
fleet_enrollment_requests_waiting 1
`, "fleet_deployments", "fleet_enrollment_requests_waiting")
}

// An empty cache of a server that starts would look like a fleet that is gone.
func TestNothingIsShownBeforeItIsKnown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if n := testutil.CollectAndCount(r.Census); n != 0 {
		t.Errorf("%d metrics of a server that starts", n)
	}
	close(r.ready)
	if n := testutil.CollectAndCount(r.Census); n == 0 {
		t.Error("no metrics of a server that is ready")
	}
}

// However often it is asked, a census counts once in 15 s.
func TestScrapesShareACount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		close(r.ready)
		waits := func(n int) {
			t.Helper()
			r.shows(fmt.Sprintf(`# HELP fleet_enrollment_requests_waiting EnrollmentRequests that wait for an operator.
# TYPE fleet_enrollment_requests_waiting gauge
fleet_enrollment_requests_waiting %d
`, n), "fleet_enrollment_requests_waiting")
		}
		waits(0)
		put(t, r.requests, &v1alpha1.EnrollmentRequest{ObjectMeta: metav1.ObjectMeta{Name: "waiting"}})
		time.Sleep(15*time.Second - time.Millisecond) // the clock of the bubble
		waits(0)
		time.Sleep(time.Millisecond)
		waits(1)
	})
}

// BenchmarkScrape scrapes a census of 10,000 Devices: one that counts, and one of
// the others.
func BenchmarkScrape(b *testing.B) {
	r := newRig(b)
	close(r.ready)
	for i := range 10_000 {
		d := device(fmt.Sprintf("device-%05d", i), connected, good, held)
		d.Status.CertificateExpires = new(metav1.NewTime(now.Add(200 * day)))
		put(b, r.devices, d)
	}
	scrape := func(b *testing.B, c prometheus.Collector) {
		ch := make(chan prometheus.Metric, 100)
		c.Collect(ch)
		if len(ch) != 14 {
			b.Fatalf("%d metrics", len(ch))
		}
	}
	b.Run("counts", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			scrape(b, census.New(r.Config))
		}
	})
	b.Run("shows", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			scrape(b, r.Census)
		}
	})
}
