package reconcile_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/reconcile"
)

// values are counters and gauges, and of histograms the number and the sum of
// observations, by name and last label.
func values(t testing.TB, panics *guard.Panics, m *reconcile.Metrics) map[string]float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(append(m.Collectors(), panics.Collectors()...)...)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, x := range f.Metric {
			key := f.GetName() + " " + x.Label[len(x.Label)-1].GetValue()
			switch {
			case x.Histogram != nil:
				got[key] = float64(x.Histogram.GetSampleCount())
				got[key+" sum"] = x.Histogram.GetSampleSum()
			case x.Gauge != nil:
				got[key] = x.Gauge.GetValue()
			default:
				got[key] = x.Counter.GetValue()
			}
		}
	}
	return got
}

func TestQueuesAreMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		panics := guard.NewPanics()
		m := reconcile.NewMetrics(panics)
		queue := reconcile.NewQueue[string]("test", m)
		queue.Add("a")
		queue.Add("a") // waits once
		queue.Add("b")
		if depth := values(t, panics, m)["fleet_queue_depth test"]; depth != 2 {
			t.Errorf("depth is %v, want 2", depth)
		}
		time.Sleep(3 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		failed := false
		reconcile.Work(ctx, queue, slog.New(slog.DiscardHandler), func(_ context.Context, key string) (time.Duration, error) {
			time.Sleep(2 * time.Second)
			if key == "a" && !failed {
				failed = true
				return 0, errors.New("the disk is full")
			}
			return 0, nil
		})
		m.Wrote("Deployment", "status")
		want := map[string]float64{
			"fleet_queue_depth test": 0, "fleet_queue_retries_total test": 1, "fleet_panics_total test": 0, "fleet_api_writes_total status": 1,
			"fleet_queue_work_duration_seconds test": 3, "fleet_queue_work_duration_seconds test sum": 6,
			// The first waits for 3 s, the second 2 s more, and the first again from 50 ms
			// after its end to that of the second.
			"fleet_queue_latency_seconds test": 3, "fleet_queue_latency_seconds test sum": 3 + 5 + 1.95,
		}
		if diff := cmp.Diff(want, values(t, panics, m)); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

// A panic costs one key, which is tried again like after any other error, and is
// counted as the queue's.
func TestAPanicCostsOneKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var log bytes.Buffer
		panics, calls := guard.NewPanics(), map[string]int{}
		m := reconcile.NewMetrics(panics)
		queue := reconcile.NewQueue[string]("test", m)
		for _, key := range []string{"bad", "good"} {
			queue.Add(key)
		}
		reconcile.Work(ctx, queue, slog.New(slog.NewTextHandler(&log, nil)), func(_ context.Context, key string) (time.Duration, error) {
			calls[key]++
			if key == "bad" {
				writeNilMap(nil)
			}
			return 0, nil
		})
		if calls["good"] != 1 || calls["bad"] < 3 || calls["bad"] > 20 {
			t.Errorf("calls are %v", calls)
		}
		if n := strings.Count(log.String(), "stack="); n != 1 || !strings.Contains(log.String(), "writeNilMap") || !strings.Contains(log.String(), "key=bad") {
			t.Errorf("%d stacks are reported, want 1:\n%s", n, log.String())
		}
		if got := values(t, panics, m)["fleet_panics_total test"]; got != float64(calls["bad"]) {
			t.Errorf("%v panics are counted, want %d", got, calls["bad"])
		}
	})
}

func writeNilMap(m map[string]int) { m["a"] = 1 }
