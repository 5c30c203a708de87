package deviceapi_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/deviceapi"
)

func TestDevicesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := deviceapi.NewTurns()
		var done []string
		for _, name := range []string{"a1", "a2", "a3", "a4", "b1", "b2", "c1"} {
			turns.Add(name[:1], func() { done = append(done, name) })
		}
		ctx, cancel := context.WithCancel(t.Context())
		go turns.Run(ctx)
		synctest.Wait()
		if got, want := strings.Join(done, " "), "a1 b1 c1 a2 b2 a3 a4"; got != want {
			t.Errorf("the order is %s, want %s", got, want)
		}
		turns.Add("b", func() { done = append(done, "b3") })
		synctest.Wait()
		cancel()
		synctest.Wait()
		if done[len(done)-1] != "b3" {
			t.Error("it does not go on")
		}
	})
}

// Whatever comes in whichever order: all of it is done once, a device's own in
// order, and nobody waits for more than one piece of each other device.
func TestTurnsAreFair(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		turns := deviceapi.NewTurns()
		type piece struct {
			device string
			n      int
		}
		var done []piece
		counts := map[string]int{}
		for _, device := range rapid.SliceOf(rapid.SampledFrom([]string{"a", "b", "c"})).Draw(t, "devices") {
			p := piece{device, counts[device]}
			counts[device]++
			turns.Add(device, func() { done = append(done, p) })
		}
		for work := turns.Take(); work != nil; work = turns.Take() {
			work()
		}
		seen := map[string]int{}
		for i, p := range done {
			if p.n != seen[p.device] {
				t.Fatalf("piece %d of %s comes as %d", p.n, p.device, seen[p.device])
			}
			seen[p.device]++
			if i >= len(counts)*(p.n+1) {
				t.Fatalf("piece %d of %s comes as number %d", p.n, p.device, i)
			}
		}
		for device, n := range counts {
			if seen[device] != n {
				t.Fatalf("%d of %d pieces of %s are done", seen[device], n, device)
			}
		}
	})
}
