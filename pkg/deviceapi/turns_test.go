package deviceapi_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
	rapid.Check(t, func(rt *rapid.T) {
		devices := rapid.SliceOf(rapid.SampledFrom([]string{"a", "b", "c"})).Draw(rt, "devices")
		synctest.Test(t, func(t *testing.T) {
			turns := deviceapi.NewTurns()
			type piece struct {
				device string
				n      int
			}
			var done []piece
			counts := map[string]int{}
			for _, device := range devices {
				p := piece{device, counts[device]}
				counts[device]++
				turns.Add(device, func() { done = append(done, p) })
			}
			ctx, cancel := context.WithCancel(t.Context())
			go turns.Run(ctx)
			synctest.Wait()
			cancel()
			synctest.Wait()
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
	})
}

// A device that has used its turn rests three times as long, even if it sends
// piece by piece; others are served meanwhile.
func TestDevicesRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := deviceapi.NewTurns()
		ctx, cancel := context.WithCancel(t.Context())
		go turns.Run(ctx)
		start := time.Now()
		done := make(chan time.Duration)
		work := func(takes time.Duration) func() {
			return func() { time.Sleep(takes); done <- time.Since(start) }
		}
		for _, step := range []struct {
			device      string
			takes, ends time.Duration
		}{
			{"a", time.Millisecond, time.Millisecond},
			{"a", time.Millisecond, 5 * time.Millisecond},
			{"b", time.Millisecond, 6 * time.Millisecond},
			{"a", time.Second, 1008 * time.Millisecond},
			{"a", 0, 1018 * time.Millisecond},
		} {
			turns.Add(step.device, work(step.takes))
			if ends := <-done; ends != step.ends {
				t.Errorf("a piece of %s that takes %s ends after %s, want %s", step.device, step.takes, ends, step.ends)
			}
		}
		cancel()
		synctest.Wait()
	})
}

// What a device sends while its work takes long does not pile up, and it has its turns
// again afterwards.
func TestTurnsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := deviceapi.NewTurns()
		done := 0
		for turns.AddOther("a") { // however many there are
		}
		for i := range 2 * deviceapi.MaxOwn {
			if turns.Add("a", func() { done++ }) != (i < deviceapi.MaxOwn) {
				t.Fatalf("piece %d", i)
			}
		}
		if !turns.Add("b", func() {}) {
			t.Error("another device has no turn")
		}
		ctx, cancel := context.WithCancel(t.Context())
		go turns.Run(ctx)
		synctest.Wait()
		time.Sleep(time.Minute)
		if done != deviceapi.MaxOwn || !turns.Add("a", func() { done++ }) {
			t.Errorf("%d pieces are done", done)
		}
		cancel()
		synctest.Wait()
	})
}

// A mistake of the program costs one piece of work: its device rests, and has its next turn.
func TestAPanicCostsOnePiece(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := deviceapi.NewTurns()
		var done []string
		turns.Add("a", func() { time.Sleep(time.Millisecond); panic("a mistake") })
		for _, name := range []string{"a2", "b1"} {
			turns.Add(name[:1], func() { done = append(done, name) })
		}
		ctx, cancel := context.WithCancel(t.Context())
		go turns.Run(ctx)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := strings.Join(done, " "); got != "b1 a2" {
			t.Errorf("%s is done, want b1 a2", got)
		}
		cancel()
		synctest.Wait()
	})
}
