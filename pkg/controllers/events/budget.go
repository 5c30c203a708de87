package events

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
)

// Events a second, and how many at once: each is a write to the API store. Thousands
// of devices that come back together, after a restart, are in the statuses and the
// metrics; what somebody should look at has a budget of its own.
const (
	normalRate, normalBurst   = 5, 100
	warningRate, warningBurst = 10, 200
)

// Recorder is an EventRecorder that keeps to a budget.
type Recorder struct {
	record.EventRecorder

	budgets map[string]*rate.Limiter
	dropped *prometheus.CounterVec
}

// NewRecorder returns a Recorder that records with r.
func NewRecorder(r record.EventRecorder) *Recorder {
	return &Recorder{
		EventRecorder: r,
		budgets: map[string]*rate.Limiter{
			corev1.EventTypeNormal: rate.NewLimiter(normalRate, normalBurst), corev1.EventTypeWarning: rate.NewLimiter(warningRate, warningBurst),
		},
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_events_dropped_total", Help: "Events that were not recorded because there were too many, by type.",
		}, []string{"type"}),
	}
}

// Collectors are the metrics of the recorder.
func (r *Recorder) Collectors() []prometheus.Collector { return []prometheus.Collector{r.dropped} }

// Event implements record.EventRecorder.
func (r *Recorder) Event(o runtime.Object, eventType, reason, message string) {
	if budget := r.budgets[eventType]; budget != nil && !budget.Allow() {
		r.dropped.WithLabelValues(strings.ToLower(eventType)).Inc()
		return
	}
	r.EventRecorder.Event(o, eventType, reason, message)
}

// Eventf implements record.EventRecorder.
func (r *Recorder) Eventf(o runtime.Object, eventType, reason, format string, args ...any) {
	r.Event(o, eventType, reason, fmt.Sprintf(format, args...))
}
