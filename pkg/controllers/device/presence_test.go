package device_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/controllers/device"
)

// presence is a Presence whose changes are noted.
func presence() (p *device.Presence, changes func() []string) {
	p = device.NewPresence()
	var seen []string
	p.OnChange(func(name string) { seen = append(seen, name) })
	return p, func() []string {
		now := seen
		seen = nil
		return now
	}
}

func wantChanges(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestDeviceIsPresentWhileItIsHeard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, changes := presence()
		p.DeviceConnected("edge-1")
		if _, present, _ := p.State("edge-1"); present {
			t.Error("a connection alone counts")
		}
		wantChanges(t, changes())
		for range 5 { // each in time
			p.Heard("edge-1")
			time.Sleep(device.Silence - time.Second)
			if next := p.Sweep(); next != time.Second {
				t.Errorf("the next sweep is due in %s", next)
			}
		}
		wantChanges(t, changes(), "edge-1")
		last, present, settled := p.State("edge-1")
		if !present || !settled || time.Since(last) != device.Silence-time.Second {
			t.Errorf("present %v, settled %v, last heard %s ago", present, settled, time.Since(last))
		}
		time.Sleep(time.Second)
		if next := p.Sweep(); next != device.Silence {
			t.Errorf("with nobody left the next sweep is due in %s", next)
		}
		if _, present, _ := p.State("edge-1"); present {
			t.Error("a silent device is present")
		}
		wantChanges(t, changes(), "edge-1")
		p.Sweep()
		wantChanges(t, changes())
		p.Heard("edge-1")
		wantChanges(t, changes(), "edge-1")
		p.DeviceDisconnected("edge-1")
		wantChanges(t, changes(), "edge-1")
		if _, present, _ := p.State("edge-1"); present {
			t.Error("a device without a connection is present")
		}
	})
}

func TestSweepTakesTheSilentOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, changes := presence()
		p.Heard("edge-1")
		time.Sleep(30 * time.Second)
		p.Heard("edge-2")
		wantChanges(t, changes(), "edge-1", "edge-2")
		time.Sleep(60 * time.Second)
		if next := p.Sweep(); next != 30*time.Second {
			t.Errorf("the next sweep is due in %s", next)
		}
		wantChanges(t, changes(), "edge-1")
		if _, present, _ := p.State("edge-2"); !present {
			t.Error("a device that was heard in time is gone")
		}
	})
}

// After a start nobody is known to be gone until they had the time to come back.
func TestAbsenceIsKnownAfterAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _ := presence()
		for _, tc := range []struct {
			after   time.Duration
			settled bool
		}{{0, false}, {device.Silence, false}, {time.Nanosecond, true}} {
			time.Sleep(tc.after)
			if _, present, settled := p.State("edge-1"); present || settled != tc.settled {
				t.Errorf("present %v, settled %v, want %v", present, settled, tc.settled)
			}
		}
	})
}
