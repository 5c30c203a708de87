package sim

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A device enrolls for as long as the server says that too many do, which it does not say
// of a bad token.
func TestEnrollmentOutlastsACrowd(t *testing.T) {
	t.Parallel()
	busy := &wire.Refusal{Code: wire.RefusedRateLimited, Message: "too many devices enroll at this moment: try again later"}
	bad := &wire.Refusal{Code: wire.RefusedToken, Message: "the token is used up"}
	for name, tc := range map[string]struct {
		last  error
		asked int
		want  error
	}{
		"let in":  {nil, 4, nil},
		"refused": {bad, 4, bad},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := New(Config{Device: "edge-1", Latencies: &Latencies{}, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			asked := 0
			d.enroll = func(_ context.Context, r enroll.Request) (*enroll.Result, error) {
				if asked++; asked < tc.asked {
					return nil, busy
				}
				return &enroll.Result{Device: r.Device}, tc.last
			}
			if err := d.Enroll(t.Context()); !errors.Is(err, tc.want) || asked != tc.asked {
				t.Errorf("asked %d times, %v", asked, err)
			}
			if n := d.Latencies.Of(Enrolled).Count; (n == 1) != (tc.want == nil) {
				t.Errorf("%d enrollments are measured", n)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	d, err := New(Config{Device: "edge-1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d.enroll = func(context.Context, enroll.Request) (*enroll.Result, error) { cancel(); return nil, busy }
	if err := d.Enroll(ctx); !errors.Is(err, busy) {
		t.Errorf("at the end of a run it says %v", err)
	}
}

// Devices flap at times of their own, as often as they are told on average, and not at
// all if they are told nothing.
func TestFlapping(t *testing.T) {
	t.Parallel()
	const every, times = time.Minute, 2000
	var sum time.Duration
	for range times {
		d := pause(every)
		if d < 0 || d > 2*every {
			t.Fatalf("a connection is kept for %s", d)
		}
		sum += d
	}
	if mean := sum / times; mean < every*9/10 || mean > every*11/10 { // more than seven standard deviations
		t.Errorf("connections are kept for %s on average, want %s", mean, every)
	}
	synctest.Test(t, func(t *testing.T) {
		flaps, steady := newFlap(every), newFlap(0)
		defer flaps.Stop()
		defer steady.Stop()
		time.Sleep(2*every + time.Second)
		select {
		case <-flaps.C:
		default:
			t.Error("a device that should flap keeps its connection")
		}
		select {
		case <-steady.C:
			t.Error("a device that should not flap drops its connection")
		default:
		}
	})
}

// To lose what is lost already, several times, is one loss.
func TestLossesAreMeasuredOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &Device{Config: Config{Latencies: &Latencies{}}, drops: make(chan struct{}, 1)}
		if d.IsSynced() {
			t.Error("a device that has not begun is synced")
		}
		d.lose()
		time.Sleep(time.Second)
		d.lose()
		time.Sleep(time.Second)
		if d.IsSynced() {
			t.Error("a device without a connection is synced")
		}
		d.found()
		d.found()
		if s := d.Latencies.Of(Synced); s.Count != 1 || s.Max != 2*time.Second || !d.IsSynced() {
			t.Errorf("measured is %+v", s)
		}
		(&Fleet{Devices: []*Device{d}}).Storm()
		d.Drop() // does not wait for the device, which is about to
		if len(d.drops) != 1 {
			t.Errorf("%d losses are due", len(d.drops))
		}
	})
}
