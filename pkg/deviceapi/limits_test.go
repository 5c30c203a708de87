package deviceapi_test

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/deviceapi"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// allowed is the most that a token bucket lets through in a time.
func allowed(rate float64, burst int, in time.Duration) float64 {
	const rounding = 1e-6
	return float64(burst) + rate*in.Seconds() + rounding
}

// Whatever a device does, no window of time brings more than the burst and
// what the rate adds, of what passes and of what is only refused.
func TestNoWindowExceedsTheBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.SampledFrom([]wire.Kind{wire.KindSnapshot, wire.KindInfo, wire.KindHeartbeat}).Draw(rt, "kind")
		rate, burst := deviceapi.Budget(kind)
		strikeRate, strikeBurst := deviceapi.Strikes()
		pauses := rapid.SliceOfN(rapid.Int64Range(0, int64(5*time.Second)), 1, 20).Draw(rt, "pauses")
		volley := rapid.IntRange(1, 2*burst).Draw(rt, "volley")
		var passed, refused []time.Time
		synctest.Test(t, func(*testing.T) {
			l := deviceapi.NewLimits()
			for _, pause := range pauses {
				time.Sleep(time.Duration(pause))
				for range volley {
					switch l.Take("edge-1", kind) {
					case deviceapi.Pass:
						passed = append(passed, time.Now())
					case deviceapi.Refuse:
						refused = append(refused, time.Now())
					case deviceapi.Kick:
					}
				}
			}
		})
		checkWindows(rt, "passed", passed, rate, burst)
		checkWindows(rt, "refused", refused, strikeRate, strikeBurst)
	})
}

// A message that is too long costs as much as so many that are not.
func TestLongMessagesCostMore(t *testing.T) {
	t.Parallel()
	longest := wire.KindState.Verb().MaxRequest
	_, burst := deviceapi.Budget(wire.KindState)
	_, strikes := deviceapi.Strikes()
	for _, tt := range []struct{ bytes, cost int }{{0, 1}, {1, 1}, {longest, 1}, {longest + 1, 2}, {2 * longest, 2}, {2*longest + 1, 3}, {wire.MaxReply, (wire.MaxReply + longest - 1) / longest}} {
		synctest.Test(t, func(t *testing.T) {
			l := deviceapi.NewLimits()
			for i := range burst/tt.cost + strikes/tt.cost + 3 {
				want := deviceapi.Kick
				switch {
				case i < burst/tt.cost:
					want = deviceapi.Pass
				case i < burst/tt.cost+strikes/tt.cost:
					want = deviceapi.Refuse
				}
				if got := l.TakeBytes("edge-1", wire.KindState, tt.bytes); got != want {
					t.Fatalf("message %d of %d bytes: %v, want %v", i, tt.bytes, got, want)
				}
			}
		})
	}
}

func checkWindows(t *rapid.T, what string, at []time.Time, rate float64, burst int) {
	for i := range at {
		for j := i; j < len(at); j++ {
			if n, most := j-i+1, allowed(rate, burst, at[j].Sub(at[i])); float64(n) > most {
				t.Fatalf("%d %s within %s, at most %.1f are allowed", n, what, at[j].Sub(at[i]), most)
			}
		}
	}
}

// What a device may do, it can do: a budget is no lottery.
func TestBudgetIsThere(t *testing.T) {
	t.Parallel()
	for _, kind := range wire.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := deviceapi.NewLimits()
				rate, burst := deviceapi.Budget(kind)
				_, strikes := deviceapi.Strikes()
				take := func(n int, want deviceapi.Verdict) {
					t.Helper()
					for i := range n {
						if got := l.Take("edge-1", kind); got != want {
							t.Fatalf("message %d of %d: %d, want %d", i+1, n, got, want)
						}
					}
				}
				take(burst, deviceapi.Pass)
				take(strikes, deviceapi.Refuse)
				take(3, deviceapi.Kick)
				// Others are not touched by it, nor are other kinds.
				if got := l.Take("edge-2", kind); got != deviceapi.Pass {
					t.Errorf("another device: %d", got)
				}
				for _, other := range wire.Kinds {
					if other != kind && l.Take("edge-1", other) != deviceapi.Pass {
						t.Errorf("%s is refused for a flood of %s", other, kind)
					}
				}
				for range 5 {
					time.Sleep(time.Duration(float64(time.Second) / rate))
					take(1, deviceapi.Pass)
				}
				l.Forget("edge-1")
				take(burst, deviceapi.Pass)
			})
		})
	}
}

// kicks counts the devices that are barred, and those of which the strays are.
type kicks struct {
	bus.Connections // nil: the rest is not called

	kicked map[string]int
}

func (k kicks) Bar(device string)       { k.kicked[device]++ }
func (k kicks) BarStrays(device string) { k.kicked[device+" strays"]++ }

// Dropping the strays of a device helps unless it is the device that floods.
func TestKickOfStraysEndsInAKickOfTheDevice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kicked := map[string]int{}
		s := deviceapi.New(deviceapi.Config{
			Logger: slog.New(slog.DiscardHandler), Connections: kicks{kicked: kicked},
		})
		_, burst := deviceapi.Budget(wire.KindState)
		_, strikes := deviceapi.Strikes()
		flood := func(device string, lasts time.Duration) {
			for range burst + strikes {
				s.Spend(device, true, wire.KindState)
			}
			for end := time.Now().Add(lasts); !time.Now().After(end); time.Sleep(10 * time.Millisecond) {
				for range 10 {
					s.Spend(device, true, wire.KindState)
				}
			}
		}
		flood("edge-1", 4*time.Second) // what was on its way
		if diff := cmp.Diff(map[string]int{"edge-1 strays": 5}, kicked); diff != "" {
			t.Error(diff)
		}
		clear(kicked)
		time.Sleep(time.Minute)
		flood("edge-1", 0) // one that came back
		if diff := cmp.Diff(map[string]int{"edge-1 strays": 1}, kicked); diff != "" {
			t.Error(diff)
		}
		clear(kicked)
		flood("edge-2", 7*time.Second)
		if kicked["edge-2"] == 0 || kicked["edge-2 strays"] != 5 || len(kicked) != 2 {
			t.Errorf("of a device that goes on, dropped were %v", kicked)
		}
		if s.Spend("edge-2", false, wire.KindState) != deviceapi.Pass {
			t.Error("its strays have used up the device's budget")
		}
	})
}

// The largest manifest can be fetched and reported at once.
func TestBudgetsCoverTheLargestManifest(t *testing.T) {
	t.Parallel()
	if _, burst := deviceapi.Budget(wire.KindBody); burst < wire.MaxEntries {
		t.Errorf("%d bodies at once", burst)
	}
	if _, burst := deviceapi.Budget(wire.KindState); burst < wire.MaxEntries {
		t.Errorf("%d reports at once", burst)
	}
}
