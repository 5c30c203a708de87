package sim

import (
	"testing"
	"time"
)

func TestPercentiles(t *testing.T) {
	t.Parallel()
	var l *Latencies
	l.add(Synced, time.Second) // nobody measures
	l = &Latencies{}
	if s := l.Of(Synced); s != (Summary{}) {
		t.Errorf("of nothing: %+v", s)
	}
	l.add(Synced, time.Second)
	if s, want := l.Of(Synced), (Summary{1, time.Second, time.Second, time.Second, time.Second}); s != want {
		t.Errorf("of one: %+v", s)
	}
	for n := 200; n > 0; n-- {
		l.add(Applied, time.Duration(n))
	}
	if s, want := l.Of(Applied), (Summary{200, 100, 180, 198, 200}); s != want {
		t.Errorf("of two hundred: %+v, want %+v", s, want)
	}
}
