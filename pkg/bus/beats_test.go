package bus_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/bus"
)

// Heartbeats of one interval are written together, of each device the newest.
func TestBeatsAreGathered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		written := map[string][]string{}
		buckets := bus.BucketsThat(func(subject string, data []byte) error {
			mu.Lock()
			defer mu.Unlock()
			written[subject] = append(written[subject], string(data))
			return nil
		})
		beat := func(device, text string) {
			t.Helper()
			if err := buckets.Beat(device, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		pass := func() { time.Sleep(bus.BeatInterval); synctest.Wait() }
		check := func(want map[string][]string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(want, written); diff != "" {
				t.Errorf("written (-want +got):\n%s", diff)
			}
		}
		beat("edge-1", "1")
		beat("edge-2", "1")
		beat("edge-1", "2")
		beat("edge-3", "of one that is removed")
		buckets.DropBeat("heartbeat.edge-3")
		check(map[string][]string{})
		pass()
		want := map[string][]string{"$KV.device-heartbeat.heartbeat.edge-1": {"2"}, "$KV.device-heartbeat.heartbeat.edge-2": {"1"}}
		check(want)
		pass() // nothing more
		check(want)
		beat("edge-2", "2")
		pass()
		want["$KV.device-heartbeat.heartbeat.edge-2"] = []string{"1", "2"}
		check(want)
		if err := buckets.Beat("no name", nil); err == nil {
			t.Error("a name that makes no key is taken")
		}
	})
}
