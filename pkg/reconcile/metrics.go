package reconcile

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"fleet.nationtech.io/fleet/pkg/guard"
)

// Metrics are those of the controllers of a process. A nil Metrics counts nothing.
type Metrics struct {
	depth     *prometheus.GaugeVec
	latency   *prometheus.HistogramVec
	durations *prometheus.HistogramVec
	retries   *prometheus.CounterVec
	panics    *guard.Panics
	writes    *prometheus.CounterVec
}

// seconds are the bounds of histograms: from a tenth of a millisecond to 100 s.
var seconds = prometheus.ExponentialBuckets(1e-4, 10, 7)

// NewMetrics returns metrics that count nothing yet. Panics of what works on a queue
// are counted elsewhere.
func NewMetrics(panics *guard.Panics) *Metrics {
	queue := []string{"queue"}
	return &Metrics{
		depth: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fleet_queue_depth", Help: "Objects that wait to be looked at.",
		}, queue),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fleet_queue_latency_seconds", Help: "How long an object waits until it is looked at.", Buckets: seconds,
		}, queue),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fleet_queue_work_duration_seconds", Help: "How long looking at an object takes.", Buckets: seconds,
		}, queue),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_queue_retries_total", Help: "Objects that are looked at again because that failed.",
		}, queue),
		panics: panics,
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_api_writes_total", Help: "Writes of the controllers to the API, by kind of object and reason.",
		}, []string{"kind", "reason"}),
	}
}

// Collectors are the metrics for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.depth, m.latency, m.durations, m.retries, m.writes}
}

// Wrote counts a write to the API, when it is asked for: one that fails costs as much.
// Kinds and reasons are words of the program, and few.
func (m *Metrics) Wrote(kind, reason string) {
	if m != nil {
		m.writes.WithLabelValues(kind, reason).Inc()
	}
}

// queueMetrics are those of one queue. They are there, with 0, before anything happens.
type queueMetrics struct {
	depth             prometheus.Gauge
	latency, duration prometheus.Observer
	retries           prometheus.Counter
	panics            *guard.Panics
}

func (m *Metrics) of(queue string) queueMetrics {
	if m == nil {
		m = NewMetrics(nil)
	}
	m.panics.Loop(queue, nil) // so that its count is there
	return queueMetrics{
		depth: m.depth.WithLabelValues(queue), latency: m.latency.WithLabelValues(queue), duration: m.durations.WithLabelValues(queue),
		retries: m.retries.WithLabelValues(queue), panics: m.panics,
	}
}

// Loop returns the guard of a loop that has no queue.
func (m *Metrics) Loop(name string, log *slog.Logger) *guard.Guard {
	if m == nil {
		return (*guard.Panics)(nil).Loop(name, log)
	}
	return m.panics.Loop(name, log)
}
