package rollout_test

import (
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/rollout"
)

// at is a time in Zurich, where clocks went forward at 2:00 on 29 March 2026 and back at 3:00 on
// 25 October.
func at(t *testing.T, text string) time.Time {
	t.Helper()
	zurich, err := time.LoadLocation("Europe/Zurich")
	if err != nil {
		t.Fatal(err)
	}
	when, err := time.ParseInLocation("2006-01-02 15:04 MST", text, zurich)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

func TestWindows(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cron   string
		length time.Duration
		open   map[string]bool
	}{
		"each night": {"0 2 * * *", 3 * time.Hour, map[string]bool{
			"2026-03-10 01:59 CET": false, "2026-03-10 02:00 CET": true, "2026-03-10 04:59 CET": true, "2026-03-10 05:00 CET": false,
		}},
		"clocks go forward, and it would open in the hour that is left out": {"30 2 * * *", time.Hour, map[string]bool{
			"2026-03-28 02:30 CET": true, "2026-03-29 01:59 CET": false, "2026-03-29 03:00 CEST": false, "2026-03-29 03:31 CEST": false, "2026-03-30 02:30 CEST": true,
		}},
		"clocks go forward while it is open": {"0 1 * * *", 2 * time.Hour, map[string]bool{
			"2026-03-29 01:30 CET": true, "2026-03-29 03:59 CEST": true, "2026-03-29 04:00 CEST": false,
		}},
		"clocks go back, and it opens once": {"30 2 * * *", 30 * time.Minute, map[string]bool{
			"2026-10-25 02:29 CEST": false, "2026-10-25 02:30 CEST": true, "2026-10-25 02:00 CET": false, "2026-10-25 02:30 CET": false,
		}},
		"clocks go back while it is open": {"0 1 * * *", 3 * time.Hour, map[string]bool{
			"2026-10-25 01:00 CEST": true, "2026-10-25 02:59 CET": true, "2026-10-25 03:00 CET": false,
		}},
		"longer than the time between": {"0 * * * *", 90 * time.Minute, map[string]bool{"2026-03-10 01:59 CET": true, "2026-03-10 02:00 CET": true}},
		"cannot be read":               {"no cron", time.Hour, map[string]bool{"2026-03-10 02:00 CET": false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for text, open := range tc.open {
				f := newFleet(t, 1, strict(func(s *rollout.Spec) {
					s.Windows = []rollout.Window{{Cron: tc.cron, TimeZone: "Europe/Zurich", Duration: tc.length}}
				}))
				f.now.Wall = at(t, text)
				f.target("r1")
				if got := f.next() != ""; got != open {
					t.Errorf("at %s it is open: %v, want %v: %s", text, got, open, f.says.Message)
				}
			}
		})
	}
}

// Whoever asks when told to misses no window, however long it takes to come, and a window that
// closes lets devices finish.
func TestAWindowThatOpensAndCloses(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, strict(func(s *rollout.Spec) {
		s.Windows = []rollout.Window{{Cron: "0 22 * * *", Duration: time.Hour}}
	}))
	f.target("r1")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForWindow, "which opens at 2026-03-02T22:00:00Z")
	for asked := 0; f.next() == ""; asked++ {
		if asked > 100 || f.last.Again <= f.now.Elapsed {
			t.Fatalf("asked %d times until %s", asked, f.now.Wall)
		}
		f.wait(f.last.Again - f.now.Elapsed)
	}
	if want := start.Add(10 * time.Hour); !f.now.Wall.Equal(want) {
		t.Errorf("it opened at %s", f.now.Wall)
	}
	f.wait(time.Hour)
	f.expect() // late is nobody: the deadline is ten minutes
	f.connect(true, "d00")
	f.ready("d00", "d01")
	f.expect()
	f.verdict(rollout.Progressing, rollout.ForWindow, "which opens at 2026-03-03T22:00:00Z")
}

func TestWindowsByTheClocksOfDevices(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, strict(func(s *rollout.Spec) {
		s.MaxUnavailable = rollout.Amount{N: 5}
		s.Windows = []rollout.Window{{Cron: "0 2 * * *", Duration: time.Hour, TimeZone: "Europe/Zurich", OfDevice: true}}
	}))
	for i, zone := range []string{"Asia/Tokyo", "America/New_York", "", "no/zone", "Europe/Zurich"} {
		f.change(f.names()[i], func(d *rollout.Facts) { d.Zone = zone })
	}
	f.target("r1")
	f.expect()
	f.now.Wall = time.Date(2026, 3, 3, 17, 30, 0, 0, time.UTC)
	f.expect("d00")
	f.ready("d00")
	f.now.Wall = time.Date(2026, 3, 4, 1, 30, 0, 0, time.UTC)
	f.expect("d02", "d03", "d04")
	f.ready("d02", "d03", "d04")
	f.now.Wall = time.Date(2026, 3, 4, 7, 30, 0, 0, time.UTC)
	f.expect("d01")
}

// A rollback ends what was begun: whoever failed goes back although the window has closed, and
// whoever runs waits for the next.
func TestRollbackOutsideOfWindows(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, strict(func(s *rollout.Spec) {
		s.OnFailure, s.Windows = rollout.Rollback, []rollout.Window{{Cron: "0 12 * * *", Duration: time.Hour}}
	}))
	f.target("r1")
	f.expect("d00", "d01")
	f.wait(2 * time.Minute)
	f.ready("d00")
	f.expect("d02")
	f.report(rollout.Failed, "d01")
	f.wait(time.Hour)
	f.ready("d02")
	f.expect("d01")
	f.ready("d01")
	f.expect()
	f.verdict(rollout.RollingBack, rollout.ForWindow, "2026-03-03T12:00:00Z")
	f.wait(23 * time.Hour)
	f.expect("d00", "d02")
}

// Removals wait for a window, too, and it is not missed when nothing else happens.
func TestRemovalsWaitForAWindow(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, strict(func(s *rollout.Spec) { s.Windows = []rollout.Window{{Cron: "5 12 * * *", Duration: time.Hour}} }))
	f.connect(false, "d00")
	f.change("d00", func(d *rollout.Facts) { d.Matched = false })
	f.expect()
	if f.last.Again != f.now.Elapsed+5*time.Minute {
		t.Errorf("asks again after %s", f.last.Again-f.now.Elapsed)
	}
	f.wait(5 * time.Minute)
	f.expect("d00")
}

// What a server that starts repeats waits for a window, too.
func TestRepeatedOrdersWaitForAWindow(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, strict(func(s *rollout.Spec) { s.Windows = []rollout.Window{{Cron: "0 12 * * *", Duration: time.Hour}} }))
	f.target("r1")
	f.state = *f.plan.Next(f.now).State
	f.wait(2 * time.Hour)
	f.restart("r1")
	f.expect()
	f.wait(time.Hour)
	f.expect()              // late, and never told
	f.connect(false, "d02") // nobody else waits for the window
	f.expect()
	if f.last.Again == 0 || f.last.Again > f.now.Elapsed+10*time.Minute {
		t.Errorf("asks again after %s", f.last.Again-f.now.Elapsed)
	}
	f.wait(21 * time.Hour)
	f.expect("d00", "d01")
	f.verdict(rollout.Progressing, rollout.ForDevices, "2 devices that are changing")
}
