package integration_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// measured waits until a number of times has been measured, and fails when there are more.
func measured(t *testing.T, l *sim.Latencies, what string, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d times of %s", want, what), func() error {
		if n := l.Of(what).Count; n != want {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}

// A storm costs each device one connection, and a drop one device: all come back by
// themselves, and how long that took is measured once for each.
func TestStormOfASimulatedFleet(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const devices = 6
	token, latencies := s.token(map[string]string{"group": "a"}), &sim.Latencies{}
	fleet := &sim.Fleet{AtOnce: 2}
	for i := range devices {
		d, err := sim.New(sim.Config{
			Device: fmt.Sprintf("edge-%d", i), Token: token, Server: s.enrollURL(), Fail: i%3 == 0,
			Latencies: latencies, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		fleet.Devices = append(fleet.Devices, d)
	}
	if err := fleet.Enroll(t.Context()); err != nil || fleet.Enrolled() != devices {
		t.Fatalf("%d enrolled: %v", fleet.Enrolled(), err)
	}
	measured(t, latencies, sim.Enrolled, devices)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fleet.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	measured(t, latencies, sim.Synced, devices)

	fleet.Storm()
	measured(t, latencies, sim.Synced, 2*devices)
	fleet.Devices[0].Drop()
	measured(t, latencies, sim.Synced, 2*devices+1)
	if n := fleet.Synced(); n != devices {
		t.Errorf("%d devices are synced", n)
	}
	if l := latencies.Of(sim.Synced); l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.Max {
		t.Errorf("the percentiles are %+v", l)
	}

	// A third of the devices report failures, before and after a storm.
	s.create(deployment("hello", "a"))
	s.aggregate("default", "hello", counts{devices, devices - devices/3, devices / 3, 0})
	fleet.Storm()
	s.edit("default", "hello", func(d *v1alpha1.Deployment) { d.Spec.Score = deployment("hello", "a", "edited").Spec.Score })
	s.aggregate("default", "hello", counts{devices, devices - devices/3, devices / 3, 0})
	if l := latencies.Of(sim.Applied); l.Count < 2*devices {
		t.Errorf("%d applies are measured", l.Count)
	}
}

// A device that flaps loses its connections again and again, and follows its manifest all
// the same. Another one keeps its own.
func TestFlappingDevice(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(map[string]string{"group": "a"})
	flaps, stays := &sim.Latencies{}, &sim.Latencies{}
	s.device(sim.Config{Device: "edge-1", Token: token, Flap: 200 * time.Millisecond, Latencies: flaps})
	s.device(sim.Config{Device: "edge-2", Token: token, Latencies: stays})
	s.create(deployment("hello", "a"))
	eventually(t, "losses", func() error {
		if n := flaps.Of(sim.Synced).Count; n < 6 {
			return fmt.Errorf("there were %d", n)
		}
		return nil
	})
	s.aggregate("default", "hello", counts{2, 2, 0, 0})
	if n := stays.Of(sim.Synced).Count; n != 1 {
		t.Errorf("a device that does not flap was synced %d times", n)
	}
}
