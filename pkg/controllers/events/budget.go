package events

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/lru"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// Events a second, and how many at once, of each class: each is a write to the API store.
// Thousands of devices that come back together, after a restart, are in the statuses and
// the metrics; what somebody should look at has a budget of its own.
const (
	normalRate, normalBurst   = 5, 100
	warningRate, warningBurst = 10, 200
)

// What is told of one object by class, so that devices which invent reasons to warn, or come
// and go all the time, use up nothing of others: events each objectEvery, and how many at
// once. Of objectsKept objects and classes that is remembered.
const (
	objectEvery = 10 * time.Second
	objectBurst = 10
	objectsKept = 8192
)

// urgent is what somebody has to see whatever else happens, also about the same object.
var urgent = map[string]bool{v1alpha1.ReasonRevoked: true, v1alpha1.DeviceCloneSuspected: true}

// presence is what happens again and again to a device with a bad connection. It has a
// budget of its own, and uses up none of what else happens to devices.
var presence = map[string]bool{reasonConnected: true, reasonDisconnected: true}

// class is what shares a budget: what is urgent, or what devices come and go, or events of a
// type about one kind of object.
type class struct{ of, eventType string }

func classOf(o runtime.Object, eventType, reason string) class {
	switch {
	case urgent[reason]:
		return class{"urgent", corev1.EventTypeWarning}
	case presence[reason]:
		return class{"presence", eventType}
	}
	return class{fmt.Sprintf("%T", o), eventType}
}

// Recorder is an EventRecorder that keeps to a budget.
type Recorder struct {
	record.EventRecorder

	objects *lru.Cache // of *rate.Limiter, by key
	dropped *prometheus.CounterVec

	mu      sync.Mutex // guards budgets
	budgets map[class]*rate.Limiter
}

// NewRecorder returns a Recorder that records with r.
func NewRecorder(r record.EventRecorder) *Recorder {
	return &Recorder{
		EventRecorder: r,
		objects:       lru.New(objectsKept),
		budgets:       map[class]*rate.Limiter{},
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_events_dropped_total", Help: "Events that were not recorded because there were too many, by type.",
		}, []string{"type"}),
	}
}

// Collectors are the metrics of the recorder.
func (r *Recorder) Collectors() []prometheus.Collector { return []prometheus.Collector{r.dropped} }

// Event implements record.EventRecorder.
func (r *Recorder) Event(o runtime.Object, eventType, reason, message string) {
	if !r.allow(o, eventType, reason) {
		r.dropped.WithLabelValues(strings.ToLower(eventType)).Inc()
		return
	}
	r.EventRecorder.Event(o, eventType, reason, message)
}

func (r *Recorder) allow(o runtime.Object, eventType, reason string) bool {
	c := classOf(o, eventType, reason)
	return (urgent[reason] || r.ofObject(o, c).Allow()) && r.ofClass(c).Allow()
}

// ofClass is the budget of a class.
func (r *Recorder) ofClass(c class) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	budget := r.budgets[c]
	if budget == nil {
		budget = rate.NewLimiter(normalRate, normalBurst)
		if c.eventType == corev1.EventTypeWarning {
			budget = rate.NewLimiter(warningRate, warningBurst)
		}
		r.budgets[c] = budget
	}
	return budget
}

// ofObject is the budget of one object for events of a class.
func (r *Recorder) ofObject(o runtime.Object, c class) *rate.Limiter {
	key := fmt.Sprintf("%s/%s/%T", c.of, c.eventType, o)
	if m, err := meta.Accessor(o); err == nil {
		key += "/" + m.GetNamespace() + "/" + m.GetName()
	}
	if known, ok := r.objects.Get(key); ok {
		return known.(*rate.Limiter)
	}
	budget := rate.NewLimiter(rate.Every(objectEvery), objectBurst)
	r.objects.Add(key, budget)
	return budget
}

// Eventf implements record.EventRecorder.
func (r *Recorder) Eventf(o runtime.Object, eventType, reason, format string, args ...any) {
	r.Event(o, eventType, reason, fmt.Sprintf(format, args...))
}
