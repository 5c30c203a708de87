// Package census counts the objects of a fleet for metrics: Devices by state,
// Deployments by phase, and what waits for an operator. It reads caches, and counts
// at most once an interval, however often it is asked.
package census

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
)

const (
	// interval is how long a count is shown before the next.
	interval = 15 * time.Second
	// soon is when a certificate is about to expire. A device renews its own half a
	// year before.
	soon = 30 * 24 * time.Hour
)

// Config is what a census reads.
type Config struct {
	// Ready is closed when there is something to count. No metric is shown before.
	Ready <-chan struct{}
	// Devices and Requests are caches of Devices and EnrollmentRequests.
	Devices, Requests cache.Store
	// Phases counts Deployments.
	Phases func() map[assigner.Phase]int
	Now    func() time.Time
}

// Census is a prometheus.Collector.
type Census struct {
	Config

	devices, deployments, certificates *prometheus.GaugeVec
	held, waiting                      prometheus.Gauge

	mu    sync.Mutex // guards taken, and the gauges while they are set and read
	taken time.Time
}

// New returns a census that has counted nothing yet.
func New(c Config) *Census {
	return &Census{
		Config: c,
		devices: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fleet_devices", Help: "Devices by state: each is in one.",
		}, []string{"state"}),
		deployments: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fleet_deployments", Help: "Deployments by phase: each is in one.",
		}, []string{"phase"}),
		certificates: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fleet_device_certificates", Help: "Certificates of devices that expire within 30 days, and that expired.",
		}, []string{"state"}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fleet_manifests_held", Help: "Connected devices that hold their manifest until an operator confirms.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fleet_enrollment_requests_waiting", Help: "EnrollmentRequests that wait for an operator.",
		}),
	}
}

func (c *Census) gauges() []prometheus.Collector {
	return []prometheus.Collector{c.devices, c.deployments, c.certificates, c.held, c.waiting}
}

// Describe implements prometheus.Collector.
func (c *Census) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range c.gauges() {
		g.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c *Census) Collect(ch chan<- prometheus.Metric) {
	select {
	case <-c.Ready:
	default:
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// The age goes by the monotonic clock: the wall clock may jump.
	if c.taken.IsZero() || time.Since(c.taken) >= interval {
		c.count()
		c.taken = time.Now()
	}
	for _, g := range c.gauges() {
		g.Collect(ch)
	}
}

func (c *Census) count() {
	c.countDevices()
	phases := c.Phases()
	for _, phase := range assigner.Phases {
		c.deployments.WithLabelValues(string(phase)).Set(float64(phases[phase]))
	}
	waiting := 0
	for _, o := range c.Requests.List() {
		if r := o.(*v1alpha1.EnrollmentRequest); !r.IsApproved() && !r.IsDenied() {
			waiting++
		}
	}
	c.waiting.Set(float64(waiting))
}

func (c *Census) countDevices() {
	in, certificates, held, now := map[state]int{}, map[validity]int{}, 0, c.Now()
	for _, o := range c.Devices.List() {
		d := o.(*v1alpha1.Device)
		is := stateOf(d)
		in[is]++
		if is == revoked {
			continue
		}
		certificates[validityOf(d, now)]++
		if meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceManifestHeld) {
			held++
		}
	}
	for _, s := range states {
		c.devices.WithLabelValues(string(s)).Set(float64(in[s]))
	}
	for _, v := range []validity{expiring, expired} {
		c.certificates.WithLabelValues(string(v)).Set(float64(certificates[v]))
	}
	c.held.Set(float64(held))
}

// state is that of a Device.
type state string

const (
	registered state = "registered" // has never connected
	ready      state = "ready"
	notReady   state = "notReady" // is connected
	offline    state = "offline"
	revoked    state = "revoked" // by its object, or by the list of refused keys
)

var states = []state{registered, ready, notReady, offline, revoked}

// stateOf is pure. It reads what the device controller wrote, so that metrics and
// kubectl agree.
func stateOf(d *v1alpha1.Device) state {
	connected := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeviceConnected)
	switch {
	case d.IsOut(), connected != nil && connected.Reason == v1alpha1.ReasonKeyRefused:
		return revoked
	case connected == nil, connected.Reason == v1alpha1.ReasonNeverConnected:
		return registered
	case connected.Status != metav1.ConditionTrue:
		return offline
	case meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceReady):
		return ready
	}
	return notReady
}

// validity is that of a certificate.
type validity string

const (
	valid    validity = "valid" // or unknown: the device has not connected
	expiring validity = "expiring"
	expired  validity = "expired"
)

func validityOf(d *v1alpha1.Device, now time.Time) validity {
	expires := d.Status.CertificateExpires
	switch {
	case expires == nil || now.Add(soon).Before(expires.Time):
		return valid
	case now.Before(expires.Time):
		return expiring
	}
	return expired
}
