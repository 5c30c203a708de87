package schedule_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/agent/container/schedule"
	"fleet.nationtech.io/fleet/pkg/score"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// device has a clock on the wall that may be set, and one that only grows while it is up.
type device struct {
	t interface {
		Helper()
		Errorf(format string, args ...any)
	}
	rule   schedule.Rule
	record *schedule.Record
	wall   time.Time
	at     runs.Moment
	// ran are the times of runs that there were.
	ran map[time.Time]bool
}

func rule(cron string, catchUp bool) schedule.Rule {
	s := score.Schedule{Cron: cron}
	times, err := s.Times()
	if err != nil {
		panic(err)
	}
	return schedule.Rule{Key: cron, Times: times, CatchUp: catchUp}
}

func newDevice(t *testing.T, cron string, catchUp bool) *device {
	d := &device{t: t, rule: rule(cron, catchUp), wall: time.Date(2026, 11, 1, 12, 10, 0, 0, time.UTC), at: runs.Moment{Boot: "first", Uptime: time.Hour}, ran: map[time.Time]bool{}}
	d.record = schedule.New(&d.rule, d.wall, d.at)
	return d
}

// decide has the record decide, and returns the time of the run that is due, as 15:04.
func (d *device) decide() string {
	d.t.Helper()
	due, _ := d.record.Decide(&d.rule, d.wall, d.at)
	if due.IsZero() {
		return ""
	}
	if d.ran[due] {
		d.t.Errorf("the run of %s is due twice", due)
	}
	d.ran[due] = true
	return due.Format("15:04")
}

// live lets time pass, with a decision whenever a timer would ask for one.
func (d *device) live(t time.Duration) (ran []string) {
	d.t.Helper()
	for t > 0 {
		step := t
		if next := d.record.Next(&d.rule); !next.IsZero() {
			step = max(0, min(step, next.Sub(d.wall)))
		}
		d.wall, d.at.Uptime, t = d.wall.Add(step), d.at.Uptime+step, t-step
		if at := d.decide(); at != "" {
			ran = append(ran, at)
		}
	}
	return ran
}

// set sets the clock, which is noticed within a minute.
func (d *device) set(by time.Duration) { d.wall = d.wall.Add(by) }

// notice is the decision that follows.
func (d *device) notice(want ...string) {
	d.t.Helper()
	var ran []string
	if at := d.decide(); at != "" {
		ran = append(ran, at)
	}
	d.expect(ran, want...)
}

// off is the time that the device is without power.
func (d *device) off(t time.Duration) {
	d.wall, d.at = d.wall.Add(t), runs.Moment{Boot: d.at.Boot + "+", Uptime: time.Minute}
}

func (d *device) expect(got []string, want ...string) {
	d.t.Helper()
	if len(got) != len(want) {
		d.t.Errorf("it ran at %v, want %v", got, want)
		return
	}
	for i := range got {
		if got[i] != want[i] {
			d.t.Errorf("it ran at %v, want %v", got, want)
		}
	}
}

func TestClockThatIsSetBack(t *testing.T) {
	d := newDevice(t, "0 * * * *", false)
	d.expect(d.live(2*time.Hour), "13:00", "14:00")
	d.set(-90 * time.Minute) // 12:40
	d.expect(d.live(time.Hour))
	d.expect(d.live(90*time.Minute), "15:00")
}

func TestClockThatWasWronglyAhead(t *testing.T) {
	d := newDevice(t, "0 * * * *", false)
	d.set(24 * time.Hour)
	d.expect(d.live(2*time.Hour), "13:00", "14:00") // of tomorrow, as it seems
	d.set(-24 * time.Hour)
	d.notice()
	d.expect(d.live(2*time.Hour), "15:00", "16:00")
	d.live(19 * time.Hour)
	d.expect(d.live(3*time.Hour), "12:00") // 13:00 and 14:00 of tomorrow there were
	d.expect(d.live(time.Hour), "15:00")
}

func TestClockThatIsSetAhead(t *testing.T) {
	for catchUp, want := range map[bool][]string{false: nil, true: {"15:00"}} {
		d := newDevice(t, "0 * * * *", catchUp)
		d.set(3*time.Hour + 30*time.Minute) // 15:40
		d.expect(d.live(time.Minute), want...)
		d.expect(d.live(time.Hour), "16:00")
		if !catchUp && (len(d.record.Past) != 1 || d.record.Past[0].Result != schedule.Missed) {
			t.Errorf("the past is %+v", d.record.Past)
		}
	}
}

func TestStepOfAnNTPServer(t *testing.T) {
	d := newDevice(t, "0 * * * *", false)
	d.expect(d.live(49*time.Minute + 59*time.Second))
	d.set(2 * time.Second) // over 13:00
	d.expect(d.live(time.Second), "13:00")
	d.set(-2 * time.Second)
	d.expect(d.live(time.Minute))
}

func TestPowerIsOff(t *testing.T) {
	for catchUp, want := range map[bool][]string{false: nil, true: {"11:00"}} {
		d := newDevice(t, "0 * * * *", catchUp)
		d.off(23*time.Hour + 30*time.Minute)
		d.expect(d.live(time.Minute), want...)
		d.expect(d.live(time.Hour), "12:00")
	}
	// A device that is off for a moment at the time of a run is in time.
	d := newDevice(t, "0 * * * *", false)
	d.live(49 * time.Minute)
	d.off(3 * time.Minute)
	d.expect(d.live(time.Second), "13:00")
	// One without a battery begins in the past.
	d = newDevice(t, "0 * * * *", true)
	d.live(3 * time.Hour)
	d.off(-56 * 365 * 24 * time.Hour)
	d.expect(d.live(time.Minute))
	d.set(56 * 365 * 24 * time.Hour)
	d.expect(d.live(time.Hour), "16:00")
}

func TestAnotherScheduleBeginsAnew(t *testing.T) {
	d := newDevice(t, "0 * * * *", true)
	d.live(time.Hour)
	d.rule = rule("30 12 * * *", true)
	d.expect(d.live(time.Hour))
}

func TestNothingTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDevice(nil, rapid.SampledFrom([]string{"* * * * *", "*/7 * * * *", "0 * * * *", "30 3 * * *", "0 0 1 * *"}).Draw(t, "cron"), rapid.Bool().Draw(t, "catch up"))
		d.t = t
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			minutes := time.Duration(rapid.IntRange(-3000, 3000).Draw(t, "minutes")) * time.Minute
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				d.set(minutes)
				d.decide()
			case 1:
				d.off(minutes)
				d.decide()
			default:
				d.live(minutes.Abs() / 10)
			}
		}
	})
}

// TestTimePasses: without any of this, all runs are there.
func TestTimePasses(t *testing.T) {
	d := newDevice(t, "*/5 * * * *", false)
	if ran := d.live(24 * time.Hour); len(ran) != 24*12 {
		t.Errorf("%d runs in a day", len(ran))
	}
	if n := len(d.record.Spans); n != 1 {
		t.Errorf("%d spans", n)
	}
}

func TestTheNextRun(t *testing.T) {
	d := newDevice(t, "0 * * * *", false)
	at := func() string { return d.record.Next(&d.rule).Format("15:04") }
	if at() != "13:00" {
		t.Errorf("next is %s", at())
	}
	d.live(2 * time.Hour)
	d.set(-2 * time.Hour)
	d.decide()
	if at() != "15:00" {
		t.Errorf("next is %s, although there were others already", at())
	}
}
