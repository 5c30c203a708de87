// Package events is what the controllers tell people as Kubernetes events: `kubectl
// describe` and `kubectl get events` show them. Every event is made here, with a reason
// that is one word and a message that says what to do, if anything. What an object's
// status became says which of them there are, so nothing is told twice after a restart.
package events

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
)

// Event is what is told about an object.
type Event struct {
	// Type is corev1.EventTypeNormal, or EventTypeWarning for what somebody should look
	// at.
	Type string
	// Reason is one word in CamelCase.
	Reason, Message string
}

// NewBroadcaster returns what writes events to the API. An event that is told again within ten
// minutes counts up the one that there is, and what differs in its words alone becomes one
// after ten of them. The number of events is left to Recorder: client-go lets through 25 of an
// object and a type, and then one each five minutes, so that nobody would read that a device
// was revoked which failed all morning.
func NewBroadcaster() record.EventBroadcaster {
	return record.NewBroadcaster(record.WithCorrelatorOptions(record.CorrelatorOptions{
		QPS: spamRate, BurstSize: math.MaxInt32,
		SpamKeyFunc: func(*corev1.Event) string { return "" },
	}))
}

// spamRate is as good as no bound: 0 is client-go's own.
const spamRate = 1 << 20

// Record tells what happened to an object, in this order.
func Record(r record.EventRecorder, o runtime.Object, events ...Event) {
	for _, e := range events {
		r.Event(o, e.Type, e.Reason, e.Message)
	}
}

func normal(reason, format string, args ...any) Event {
	return Event{corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...)}
}

func warning(reason, format string, args ...any) Event {
	return Event{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)}
}
