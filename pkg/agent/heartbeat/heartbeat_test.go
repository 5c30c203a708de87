package heartbeat_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/heartbeat"
)

func TestHeartbeatsComeAtFullSeconds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "second"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanosecond"))
		interval := time.Duration(rapid.Int64Range(int64(time.Second), int64(time.Hour)).Draw(t, "interval"))
		pause := heartbeat.Next(now, interval)
		if at := now.Add(pause); at.Nanosecond() != 0 {
			t.Errorf("at %v", at)
		}
		if pause <= 0 || pause > interval || pause <= interval-time.Second {
			t.Errorf("a pause of %v at an interval of %v", pause, interval)
		}
	})
}

func TestHeartbeatsOfAFleetAreSpread(t *testing.T) {
	t.Parallel()
	const devices, interval = 3000, 30 * time.Second
	now := time.Unix(1e9, 5)
	seconds := map[int64]int{}
	for range devices {
		seconds[now.Add(heartbeat.Second(now, interval)).Unix()]++
	}
	for second, n := range seconds {
		if n > 2*devices/30 {
			t.Errorf("%d of %d devices beat in second %d", n, devices, second)
		}
	}
}
