package clock_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var built = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// machine has a wall clock that can be set, beside the time that passes.
type machine struct {
	wall    time.Time
	elapsed time.Duration
}

func (m *machine) source() clock.Source {
	return clock.Source{Wall: func() time.Time { return m.wall }, Elapsed: func() time.Duration { return m.elapsed }}
}

// pass lets time pass; set sets the clock.
func (m *machine) pass(d time.Duration) { m.wall, m.elapsed = m.wall.Add(d), m.elapsed+d }
func (m *machine) set(d time.Duration)  { m.wall = m.wall.Add(d) }

// open returns a clock that has settled, and its file.
func open(m *machine, path string) *clock.Clock {
	c := clock.Open(path, built, m.source())
	m.pass(11 * time.Minute)
	return c
}

func sane(t testing.TB, c *clock.Clock, want bool) {
	t.Helper()
	err := c.Sane()
	if (err == nil) != want {
		t.Errorf("sane: %v, want %v", err, want)
	}
	if err != nil && (!errors.Is(err, clock.ErrInsane) || strings.Contains(err.Error(), "\n")) {
		t.Errorf("error is %v, want one line that wraps ErrInsane", err)
	}
}

func TestJumps(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		by   time.Duration
		sane bool
	}{
		"none": {0, true}, "4 minutes on": {4 * time.Minute, true}, "4 minutes back": {-4 * time.Minute, true},
		"6 minutes on": {6 * time.Minute, false}, "6 minutes back": {-6 * time.Minute, false},
		"a year on": {365 * day, false}, "to 1970": {-56 * 365 * day, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &machine{wall: built.Add(100 * day)}
			c := open(m, filepath.Join(t.TempDir(), "clock.json"))
			sane(t, c, true)
			m.pass(time.Hour)
			right := m.wall
			m.set(tc.by)
			sane(t, c, tc.sane)
			if want := right; !tc.sane && !c.Now().Equal(want) {
				t.Errorf("Now is %s, want %s", c.Now(), want)
			} else if tc.sane && !c.Now().Equal(m.wall) {
				t.Errorf("Now is %s, want the wall clock, %s", c.Now(), m.wall)
			}
			m.pass(time.Hour)
			if want := right.Add(time.Hour); !tc.sane && !c.Now().Equal(want) {
				t.Errorf("an hour later Now is %s, want %s", c.Now(), want)
			}
			m.set(-tc.by) // it is corrected
			sane(t, c, true)
		})
	}
}

// A clock that is slewed by little all the time never jumps.
func TestSlewIsNoJump(t *testing.T) {
	t.Parallel()
	m := &machine{wall: built.Add(day)}
	c := open(m, filepath.Join(t.TempDir(), "clock.json"))
	for range 100 {
		m.pass(time.Minute)
		m.set(10 * time.Second)
		sane(t, c, true)
	}
}

func TestAccept(t *testing.T) {
	t.Parallel()
	m := &machine{wall: built.Add(100 * day)}
	path := filepath.Join(t.TempDir(), "clock.json")
	c := open(m, path)
	sane(t, c, true)
	for _, by := range []time.Duration{50 * day, -20 * day} {
		m.set(by)
		sane(t, c, false)
		if err := c.Accept(); err != nil {
			t.Fatal(err)
		}
		sane(t, c, true)
		if !c.Now().Equal(m.wall) {
			t.Errorf("Now is %s, want %s", c.Now(), m.wall)
		}
		sane(t, clock.Open(path, built, m.source()), true)
	}
	m.set(-200 * day)
	if err := c.Accept(); !errors.Is(err, clock.ErrInsane) || !strings.Contains(err.Error(), "built") {
		t.Errorf("a clock before the program was built is accepted: %v", err)
	}
	sane(t, c, false)
}

func TestStarts(t *testing.T) {
	t.Parallel()
	last := built.Add(100 * day)
	for name, tc := range map[string]struct {
		file string
		wall time.Time
		sane bool
		now  time.Time
	}{
		"first":                         {"", last, true, last},
		"first, before it was built":    {"", built.Add(-day), false, built},
		"a month off":                   {"good", last.Add(30 * day), true, last.Add(30 * day)},
		"two years off":                 {"good", last.Add(730 * day), false, last},
		"earlier than it was":           {"good", last.Add(-time.Hour), false, last},
		"a minute earlier":              {"good", last.Add(-time.Minute), true, last.Add(-time.Minute)},
		"no clock at all":               {"good", time.Unix(0, 0), false, last},
		"damaged":                       {"damaged", last, true, last},
		"an update that is newer":       {"old", built.Add(day), true, built.Add(day)},
		"an update, and an older clock": {"old", built.Add(-day), false, built},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "clock.json")
			content := map[string]string{
				"good": `{"lastGood":"` + last.Format(time.RFC3339) + `"}`, "damaged": "{", "old": `{"lastGood":"2020-01-01T00:00:00Z"}`,
			}[tc.file]
			if content != "" {
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c := clock.Open(path, built, (&machine{wall: tc.wall}).source())
			sane(t, c, tc.sane)
			if !c.Now().Equal(tc.now) {
				t.Errorf("Now is %s, want %s", c.Now(), tc.now)
			}
		})
	}
}

// A machine without a battery goes on where it was switched off, until the
// network tells it the time.
func TestClockThatIsSetAfterTheStart(t *testing.T) {
	t.Parallel()
	m := &machine{wall: built.Add(day)}
	c := clock.Open(filepath.Join(t.TempDir(), "clock.json"), built, m.source())
	m.pass(time.Minute)
	m.set(3 * day)
	sane(t, c, true)
	m.set(-3 * day)
	sane(t, c, false) // backwards is never good
	m.set(3 * day)
	m.pass(10 * time.Minute)
	sane(t, c, true)
	m.set(time.Hour)
	sane(t, c, false)
}

// log counts what is logged.
type log struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func TestRunTellsOnceAndKeepsTheTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "clock.json")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var off time.Duration
		source := clock.Source{
			Wall:    func() time.Time { return time.Now().Add(off) },
			Elapsed: func() time.Duration { return time.Since(start) },
		}
		c := clock.Open(path, start.Add(-day), source)
		var l log
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx, slog.New(slog.NewTextHandler(&l, nil))) }()
		hour := func(lines int) time.Time {
			time.Sleep(time.Hour)
			synctest.Wait()
			if len(l.lines) != lines {
				t.Errorf("it logged %q, want %d lines", l.lines, lines)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at, err := time.Parse(`{"lastGood":"`+time.RFC3339Nano+`"}`, strings.TrimSpace(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
		good := hour(0)
		if age := time.Since(good); age > 10*time.Minute {
			t.Errorf("the last good time is %s old", age)
		}
		off = 24 * time.Hour
		if again := hour(1); again.Sub(good) > 10*time.Minute {
			t.Errorf("a time that is not good was written: %s", again)
		}
		off = 0
		hour(2)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSystem(t *testing.T) {
	t.Parallel()
	a := clock.System.Elapsed()
	if b := clock.System.Elapsed(); a <= 0 || b < a || clock.System.Wall().Before(built) {
		t.Errorf("elapsed is %s, then %s", a, b)
	}
}
