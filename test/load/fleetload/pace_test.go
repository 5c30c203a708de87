package fleetload

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPaceOfTheFirstAndOfTheLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := startPace()
		for i := range 20 {
			pause := 100 * time.Millisecond
			if i >= 10 {
				pause = 250 * time.Millisecond
			}
			time.Sleep(pause)
			p.one()
		}
		if first, last := p.rates(5); first != 10 || last != 4 {
			t.Errorf("the first five at %v a second, the last at %v, want 10 and 4", first, last)
		}
	})
}
