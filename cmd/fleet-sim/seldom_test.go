package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What ten thousand devices say at once is cut short, and the next line tells how much of it
// is missing, whoever writes that line.
func TestALogIsCutShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(newSeldom(slog.NewTextHandler(&out, nil)))
		for range 10_000 {
			log.Warn("connecting failed")
		}
		if n := strings.Count(out.String(), "\n"); n != logBurst {
			t.Errorf("10,000 lines at once: %d are written, not %d", n, logBurst)
		}
		out.Reset()
		time.Sleep(time.Second)
		log.With("device", "sim-1").WithGroup("g").Warn("it goes on", "a", 1)
		if want := `msg="it goes on" device=sim-1 g.a=1 g.lines_left_out_before=9980`; !strings.Contains(out.String(), want) {
			t.Errorf("the line after it is %q, and has no %q", out.String(), want)
		}
	})
}
