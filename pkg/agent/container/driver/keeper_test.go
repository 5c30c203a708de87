package driver

import (
	"testing"
	"testing/synctest"
	"time"
)

// An image that is damaged still after it was pulled again costs no second download soon.
func TestAnImageIsExchangedOnceAnHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(nil)
		may := func(id string, want bool) {
			t.Helper()
			if got := k.mayExchange(id); got != want {
				t.Errorf("image %s may be exchanged: %t, want %t", id, got, want)
			}
		}
		may("a", true)
		k.mend("a")()
		may("a", false)
		may("b", true)
		time.Sleep(exchangeEvery - time.Second)
		may("a", false)
		time.Sleep(time.Second)
		may("a", true)
	})
}

// An alarm ends the pause between two looks, but not at once.
func TestAnAlarm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &Driver{keeper: newKeeper(nil)}
		for _, alarm := range []bool{true, false} {
			want := time.Minute
			if alarm {
				d.keeper.alarm()
				want = alarmEvery
			}
			began := time.Now()
			if alarmed := d.rest(t.Context(), time.Minute); alarmed != alarm || time.Since(began) != want {
				t.Errorf("with an alarm: %t; it said %t after %s, want %s", alarm, alarmed, time.Since(began), want)
			}
		}
	})
}
