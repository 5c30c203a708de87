package enroll

import "github.com/prometheus/client_golang/prometheus"

// metrics count what comes in by the enrollment listener.
type metrics struct{ requests *prometheus.CounterVec }

func newMetrics() *metrics {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fleet_enrollment_requests_total",
		Help: "Requests at the enrollment listener by kind (ca, time, enroll, renew) and result (ok, pending, or the code of the refusal).",
	}, []string{"request", "result"})
	for _, request := range []string{"time", "enroll", "renew"} { // there, with 0, before anything happens
		requests.WithLabelValues(request, "ok")
	}
	return &metrics{requests}
}

func (m *metrics) count(request, result string) { m.requests.WithLabelValues(request, result).Inc() }

// Collectors are the metrics of the listener.
func (h *Handler) Collectors() []prometheus.Collector {
	return []prometheus.Collector{h.metrics.requests}
}
