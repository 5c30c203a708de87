package runs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// device is a device with one container, whose system's clock may be set at will.
type device struct {
	ledger *runs.Ledger
	at     runs.Moment
	// wall is what the system's clock shows.
	wall time.Time
	c    container.Container
	kept []byte
	full bool
}

func newDevice() *device {
	d := &device{
		at: runs.Moment{Boot: "first", Uptime: time.Hour}, wall: time.Now(),
		c: container.Container{ID: "c", State: container.StateCreated},
	}
	d.agent()
	return d
}

// agent starts an agent.
func (d *device) agent() {
	d.ledger = runs.New(d, func() runs.Moment { return d.at }, slog.New(slog.DiscardHandler))
}

func (d *device) Load(v any) bool { return json.Unmarshal(d.kept, v) == nil }

func (d *device) Save(v any) (err error) {
	if d.full {
		return errors.New("no space left on device")
	}
	d.kept, err = json.Marshal(v)
	return err
}

func (d *device) pass(t time.Duration) { d.at.Uptime += t; d.wall = d.wall.Add(t) }

func (d *device) begin() {
	d.c.State, d.c.Started = container.StateRunning, d.wall
}

func (d *device) end(code int) {
	d.c.State, d.c.ExitCode, d.c.Finished = container.StateExited, code, d.wall
}

// reboot cuts the power, and starts the device and the agent.
func (d *device) reboot() {
	if d.c.State == container.StateRunning {
		d.c.State = container.StateExited
	}
	d.at = runs.Moment{Boot: d.at.Boot + "+", Uptime: time.Minute}
	d.agent()
}

// look is what the agent knows of the container then.
func (d *device) look() (c container.Container, ended bool) {
	c, ends := d.ends()
	return c, len(ends) > 0
}

// ends is look with what is known of the ends.
func (d *device) ends() (c container.Container, ends []runs.End) {
	list := []container.Container{d.c}
	ends = d.ledger.See(d.ledger.Begin(), list)
	d.ledger.Save()
	return list[0], ends
}

func TestPause(t *testing.T) {
	t.Parallel()
	for ends, want := range map[int]time.Duration{
		-1: 0, 0: 0, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, math.MaxInt: 5 * time.Minute,
	} {
		if got := runs.Pause(ends); got != want {
			t.Errorf("after %d ends: %v, want %v", ends, got, want)
		}
	}
}

// A crash loop is counted, and a good run ends it.
func TestEndsAreCounted(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.look()
	for n := 1; n <= 3; n++ {
		d.begin()
		if c, ended := d.look(); ended || c.Restarts != n-1 || c.Ends != n-1 {
			t.Fatalf("run %d: %+v, ended %t", n, c, ended)
		}
		d.pass(time.Second)
		d.end(n)
		c, ended := d.look()
		if !ended || c.Ends != n || c.Restarts != n-1 || c.Last.Code != n || c.Down {
			t.Fatalf("end %d: %+v, ended %t", n, c, ended)
		}
		if _, again := d.look(); again {
			t.Fatal("an end is news twice")
		}
		d.agent() // an agent that starts forgives nothing
	}
	d.begin()
	d.look()
	d.pass(10 * time.Minute)
	d.end(1)
	if c, _ := d.look(); c.Ends != 1 || c.Restarts != 3 {
		t.Errorf("after a good run: %+v", c)
	}
	d.begin()
	d.pass(time.Second)
	d.end(1) // between two looks
	if c, ended := d.look(); c.Ends != 2 || c.Restarts != 4 || !ended {
		t.Errorf("a run that nobody saw: %+v", c)
	}
}

// What runs is ready after the same time, whatever becomes of the system's clock, and an
// agent that starts does not begin to count anew.
func TestTimeIsThatOfNoClockThatCanBeSet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newDevice()
		d.look()
		d.wall = d.wall.Add(time.Duration(rapid.Int64Range(-1e17, 1e17).Draw(t, "wall")))
		d.begin()
		d.look()
		ran := time.Duration(0)
		for range rapid.IntRange(0, 5).Draw(t, "looks") {
			step := time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "step"))
			ran += step
			d.pass(step)
			d.wall = d.wall.Add(time.Duration(rapid.Int64Range(-1e17, 1e17).Draw(t, "set")))
			if rapid.Bool().Draw(t, "agent") {
				d.agent()
			}
			c, _ := d.look()
			if got := time.Since(c.Since) - ran; got < 0 || got > time.Minute {
				t.Fatalf("it runs for %v by the agent's account, want %v", time.Since(c.Since), ran)
			}
		}
		d.end(0)
		if c, _ := d.look(); c.Interrupted() || c.Down || c.Ends != 1 {
			t.Fatalf("an end looks like a power cut: %+v", c)
		}
	})
}

// A power cut is no fault of a container, and neither is a shutdown.
func TestTheDeviceWentDown(t *testing.T) {
	t.Parallel()
	for name, clean := range map[string]bool{"power cut": false, "shutdown": true} {
		d := newDevice()
		d.begin()
		d.look()
		d.pass(time.Minute)
		if clean {
			d.end(143)
		}
		d.reboot()
		c, _ := d.look()
		if !c.Down || c.Ends != 0 || c.Interrupted() == clean {
			t.Errorf("%s: %+v", name, c)
		}
		d.agent()
		if c, _ := d.look(); !c.Down || c.Ends != 0 {
			t.Errorf("%s, an agent that starts: %+v", name, c)
		}
		d.begin()
		if c, _ := d.look(); c.Down || c.Restarts != 0 {
			t.Errorf("%s, running again: %+v", name, c)
		}
	}
	d := newDevice() // one that had ended before
	d.begin()
	d.look()
	d.end(0)
	d.look()
	d.reboot()
	if c, ended := d.look(); ended || c.Down || c.Ends != 1 || time.Since(c.Since) < time.Minute {
		t.Errorf("it ended before: %+v", c)
	}
}

// Of containers that an earlier agent made, and of those whose record is lost, nothing
// is known but what the runtime says.
func TestContainersOfAnEarlierAgent(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.begin()
	d.pass(time.Minute)
	d.c.Started = time.Now().Add(-time.Minute)
	if c, _ := d.look(); time.Since(c.Since) < 59*time.Second || time.Since(c.Since) > 2*time.Minute || c.Ends != 0 {
		t.Errorf("running for a minute: %+v", c)
	}
	d = newDevice()
	d.begin()
	d.c.Started = time.Now().Add(24 * time.Hour)
	if c, _ := d.look(); time.Since(c.Since) < time.Hour {
		t.Errorf("running since tomorrow: %+v", c)
	}
	d = newDevice()
	d.begin()
	d.end(1)
	if c, ended := d.look(); !ended || c.Ends != 0 || c.Down || c.Last.Code != 1 {
		t.Errorf("ended: %+v", c)
	}
	d = newDevice()
	d.begin()
	d.c.State = container.StateExited
	if c, _ := d.look(); !c.Interrupted() {
		t.Errorf("cut off: %+v", c)
	}
}

// A look that began before something changed does not count against it.
func TestALookThatIsOld(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.begin()
	old := d.ledger.Begin()
	stale := d.c
	d.pass(time.Second)
	d.end(1)
	d.look()
	list := []container.Container{stale}
	if ended := d.ledger.See(old, list); len(ended) > 0 || list[0].Restarts != 0 {
		t.Errorf("%+v", list[0])
	}
	if c, _ := d.look(); c.Ends != 0 || c.Restarts != 0 { // its only end was the first thing seen of it
		t.Errorf("%+v", c)
	}
	d.ledger.Keep(old, nil) // begun before the container was seen
	if c, ended := d.look(); ended {
		t.Errorf("it was forgotten: %+v", c)
	}
	d.pass(time.Second)
	d.ledger.Keep(d.ledger.Begin(), nil)
	if string(d.kept) != "{}" {
		t.Errorf("what is gone is kept: %s", d.kept)
	}
}

// A full disk costs what is remembered over restarts, and nothing else.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.full = true
	d.begin()
	d.look()
	d.end(1)
	if c, _ := d.look(); c.Ends != 1 {
		t.Errorf("%+v", c)
	}
	d.full = false
	d.look()
	d.agent()
	if c, _ := d.look(); c.Ends != 1 {
		t.Errorf("it was not saved when there was space: %+v", c)
	}
}

// What a container wrote last belongs to the run that it is of, and what the agent ends
// itself does not count.
func TestOutputAndExpectedEnds(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.begin()
	d.look()
	d.end(1)
	c, _ := d.look()
	d.ledger.Tell(&c, "boom")
	if c, _ := d.look(); c.Last.Output != "boom" {
		t.Errorf("%+v", c)
	}
	d.begin()
	if c, _ := d.look(); c.Last.Output != "boom" || c.Last.Code != 1 {
		t.Errorf("restarted: %+v", c)
	}
	d.ledger.Tell(&c, "late")
	if c, _ := d.look(); c.Last.Output != "boom" {
		t.Errorf("the output of a run before counts: %+v", c)
	}
	d.ledger.Made("c") // it is started anew
	d.begin()
	d.end(7)
	if c, _ := d.look(); c.Ends != 1 || c.Restarts != 0 || c.Last.Code != 7 {
		t.Errorf("it ended before it was seen to run: %+v", c)
	}
	d.ledger.Expect("c")
	d.end(143)
	if c, _ := d.look(); c.Ends != 0 || c.Restarts != 0 {
		t.Errorf("the agent ended it: %+v", c)
	}
}

// An end is nobody's wish unless the agent ended the run, the device went down, or nothing
// was known of the run.
func TestWhichEndsNobodyAskedFor(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		live func(*device)
		want runs.End
	}{
		"it ends":              {func(d *device) { d.look(); d.pass(time.Minute); d.end(3) }, runs.End{Unasked: true, Ran: time.Minute}},
		"it ran unseen":        {func(d *device) { d.ledger.Made("c"); d.end(3) }, runs.End{Unasked: true}},
		"the agent was away":   {func(d *device) { d.look(); d.pass(time.Minute); d.agent(); d.end(0) }, runs.End{Unasked: true, Ran: time.Minute}},
		"the agent ends it":    {func(d *device) { d.look(); d.ledger.Expect("c"); d.end(143) }, runs.End{}},
		"the power is cut":     {func(d *device) { d.look(); d.reboot() }, runs.End{}},
		"of before the ledger": {func(d *device) { d.end(3) }, runs.End{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice()
			d.begin()
			tt.live(d)
			_, ends := d.ends()
			for i := range ends {
				ends[i].Ran = ends[i].Ran.Round(time.Second)
			}
			if len(ends) != 1 || ends[0] != tt.want {
				t.Errorf("got %+v, want %+v", ends, tt.want)
			}
			if _, ends := d.ends(); len(ends) > 0 {
				t.Errorf("once more: %+v", ends)
			}
		})
	}
}

// Podman's answers may be a container's that broke out: what it invents fills no memory.
func TestRecordsAreBounded(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.look()
	for n := range 10 {
		list := make([]container.Container, 1000)
		for i := range list {
			list[i] = container.Container{ID: fmt.Sprint(n, "-", i), State: container.StateRunning, Started: d.wall}
		}
		d.ledger.See(d.ledger.Begin(), list)
	}
	d.ledger.Save()
	var kept map[string]any
	if err := json.Unmarshal(d.kept, &kept); err != nil || len(kept) > 4096 || kept["c"] == nil {
		t.Errorf("%d records: %v", len(kept), err)
	}
}

// What probes found out belongs to one run, outlives the agent, and says why the run
// ended.
func TestHealthBelongsToARun(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.begin()
	d.look()
	d.pass(time.Minute)
	ready := container.Health{Started: true, Ready: true}
	if !d.ledger.Probed(d.c.ID, d.c.Started, ready) || d.ledger.Probed(d.c.ID, d.c.Started, ready) {
		t.Error("news is none, or what is known is news")
	}
	if d.ledger.Probed(d.c.ID, d.c.Started.Add(time.Second), container.Health{}) || d.ledger.Probed("other", d.c.Started, ready) {
		t.Error("another run, or another container, is this one")
	}
	d.look()
	d.pass(time.Hour)
	d.agent()
	c, _ := d.look()
	if c.Health != ready || c.HealthSince.Sub(c.Since).Round(time.Millisecond) != time.Minute {
		t.Errorf("after a restart of the agent: %+v since %v", c.Health, c.HealthSince.Sub(c.Since))
	}
	d.ledger.Probed(d.c.ID, d.c.Started, container.Health{Unwell: "no answer"})
	d.end(0)
	if c, _ = d.look(); c.Health != (container.Health{}) || c.Last.Unwell != "no answer" || c.Ends != 1 {
		t.Errorf("after the end: %+v, %+v, %d ends", c.Health, c.Last, c.Ends)
	}
	d.pass(time.Second)
	d.begin()
	if c, _ = d.look(); c.Health != (container.Health{}) {
		t.Errorf("another run: %+v", c.Health)
	}
	d.ledger.Probed(d.c.ID, d.c.Started, ready)
	d.look()
	d.end(0)
	if c, _ = d.look(); c.Last.Unwell != "" {
		t.Errorf("an end of its own: %+v", c.Last)
	}
}

// A run that nobody saw before the device went down is the device's end, too.
func TestTheDeviceWentDownUnseen(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.look()
	d.begin()
	d.reboot()
	if c, _ := d.look(); !c.Interrupted() || c.Ends != 0 {
		t.Errorf("it counts as an end of its own: %+v", c)
	}
	// In this boot it counts.
	d.pass(time.Minute)
	d.begin()
	d.end(1)
	if c, _ := d.look(); c.Interrupted() || c.Ends != 1 {
		t.Errorf("it counts as the device's end: %+v", c)
	}
}

// How long something odd has lasted begins anew with each oddity: the time that somebody paused a
// container is not time that it took to stop. An agent that starts knows of none.
func TestEachOddityHasATimeOfItsOwn(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.begin()
	stuck := func(want time.Duration, what string) {
		t.Helper()
		if c, _ := d.look(); c.Stuck != want {
			t.Errorf("%s: it is stuck for %v, want %v", what, c.Stuck, want)
		}
	}
	stuck(0, "it runs")
	d.pass(time.Hour)
	d.c.State = container.StatePaused
	stuck(0, "it is paused")
	d.pass(59 * time.Minute)
	stuck(59*time.Minute, "it is still paused")
	d.c.State = container.StateStopping
	stuck(0, "it begins to stop")
	d.pass(time.Minute)
	stuck(time.Minute, "it is still stopping")
	d.c.State = container.StateRemoving
	d.pass(time.Minute)
	stuck(2*time.Minute, "it is being removed, which passes as well")
	d.c.Gone = true
	stuck(0, "its process is gone")
	d.c.Gone, d.c.State = false, container.StateRunning
	d.pass(time.Minute)
	stuck(0, "it runs again")
	d.c.State = container.StatePaused
	stuck(0, "it is paused again")
	d.pass(time.Minute)
	d.agent()
	stuck(0, "another agent looks")
}

// A look that is older than what is known says nothing of how long something lasts.
func TestAnOlderLookIsNotStuck(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.begin()
	d.look()
	d.pass(time.Hour)
	older := d.ledger.Begin()
	d.ledger.Probed(d.c.ID, d.c.Started, container.Health{Ready: true})
	for _, state := range []container.State{container.StateStopping, container.StatePaused} {
		d.c.State = state
		list := []container.Container{d.c}
		d.ledger.See(older, list)
		if list[0].Stuck != 0 {
			t.Errorf("one that is %s is stuck for %v", state, list[0].Stuck)
		}
	}
}
