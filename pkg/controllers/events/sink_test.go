package events_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"fleet.nationtech.io/fleet/pkg/controllers/events"
	"fleet.nationtech.io/fleet/pkg/reconcile"
)

// refusing is an API that refuses every write of an event.
type refusing struct{}

var errRefused = errors.New("refused")

func (refusing) Create(*corev1.Event) (*corev1.Event, error)        { return nil, errRefused }
func (refusing) Update(*corev1.Event) (*corev1.Event, error)        { return nil, errRefused }
func (refusing) Patch(*corev1.Event, []byte) (*corev1.Event, error) { return nil, errRefused }

func TestWritesOfEventsAreCounted(t *testing.T) {
	t.Parallel()
	m := reconcile.NewMetrics(nil)
	s := events.CountWrites(refusing{}, m)
	for _, write := range []func() (*corev1.Event, error){
		func() (*corev1.Event, error) { return s.Create(&corev1.Event{}) },
		func() (*corev1.Event, error) { return s.Update(&corev1.Event{}) },
		func() (*corev1.Event, error) { return s.Patch(&corev1.Event{}, nil) },
	} {
		if _, err := write(); !errors.Is(err, errRefused) {
			t.Errorf("the error is %v", err)
		}
	}
	r := prometheus.NewRegistry()
	r.MustRegister(m.Collectors()...)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, x := range f.Metric {
			got[x.Label[0].GetValue()+" "+x.Label[1].GetValue()] = x.Counter.GetValue()
		}
	}
	if diff := cmp.Diff(map[string]float64{"Event new": 1, "Event again": 2}, got); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}
