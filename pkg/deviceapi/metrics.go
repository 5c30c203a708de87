package deviceapi

import (
	"github.com/prometheus/client_golang/prometheus"

	"fleet.nationtech.io/fleet/pkg/refusals"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// metrics count what comes in by the door.
type metrics struct {
	requests *prometheus.CounterVec
	kicks    prometheus.Counter
	refusals *prometheus.CounterVec
	// flooded counts what a device had sent when it was dropped for a flood.
	flooded prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_device_requests_total",
			Help: "Messages from devices by kind and result (ok, or the code of the refusal).",
		}, []string{"kind", "result"}),
		kicks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fleet_device_kicks_total",
			Help: "Connections dropped because a device kept sending over its budget.",
		}),
		refusals: refusals.New(refusals.DeviceAPI),
	}
	m.flooded = m.refusals.WithLabelValues("flood")
	for _, kind := range wire.Kinds { // there, with 0, before anything happens
		m.requests.WithLabelValues(string(kind), "ok")
	}
	return m
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.kicks, m.refusals}
}
