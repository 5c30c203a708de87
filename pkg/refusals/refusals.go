// Package refusals is the one metric of everything that the server turns away,
// so that an operator can watch for attacks in one place. The parts of the
// server that face a network import it.
package refusals

import "github.com/prometheus/client_golang/prometheus"

// Name of the metric; its labels are LabelWhere and LabelReason.
const (
	Name        = "fleet_refusals_total"
	LabelWhere  = "where"
	LabelReason = "reason"
)

// Values of LabelWhere.
const (
	// Bus is the NATS listener: connections, subjects and sizes.
	Bus = "bus"
	// DeviceAPI is what devices say on the subjects that are theirs.
	DeviceAPI = "deviceapi"
	// API is the listener of the API.
	API = "api"
	// Enrollment is the enrollment listener.
	Enrollment = "enrollment"
)

// New returns the counter of one place, by reason. Counters of several places
// can be registered together.
func New(where string) *prometheus.CounterVec {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name:        Name,
		Help:        "What was turned away, by the part of the server that did it and by reason.",
		ConstLabels: prometheus.Labels{LabelWhere: where},
	}, []string{LabelReason})
	for _, reason := range alarming[where] {
		counter.WithLabelValues(reason)
	}
	return counter
}

// alarming are the reasons that the alert FleetServerRefusals is about. Their counters are
// there from the start: of one that begins with a thousand, Prometheus sees no increase.
var alarming = map[string][]string{
	Bus:       {"authentication", "publish", "subscribe", "dropped", "sessions", "timeout"},
	DeviceAPI: {"reply", "flood"},
	API:       {"authentication"},
}
