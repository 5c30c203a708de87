package rollout

import (
	"time"

	"fleet.nationtech.io/fleet/pkg/score"
)

// zone is a clock by which windows open.
type zone struct {
	windows []opening
	// open: a window is. until is when this may change; zero when it never does.
	open  bool
	until time.Time
}

// opening is a window by one clock.
type opening struct {
	times  *score.Times
	length time.Duration
}

// open reports whether the window is open, and until when that holds at least; zero for ever.
// In the hour that there is twice when summer time ends it opens once. One that would open in
// the hour that there is not when it begins does not open on that day.
func (o opening) open(now time.Time) (open bool, until time.Time) {
	began := o.times.Next(now.Add(-o.length))
	if began.IsZero() || began.After(now) {
		return false, began
	}
	return true, began.Add(o.length)
}

// zoneOf returns the number of a clock; 0 is that of devices whose zone nobody knows.
func (p *Plan) zoneOf(name string) uint32 {
	if !p.byDevice {
		return 0
	}
	if z, known := p.zoneNumbers[name]; known {
		return z
	}
	if _, err := (&score.Schedule{Cron: "@daily", TimeZone: name}).Times(); err != nil || name == "" {
		return 0 // not noted: a device could make up names without end
	}
	z := uint32(len(p.zones))
	p.zones = append(p.zones, newZone(p.spec.Windows, name))
	p.zoneNumbers[name] = z
	return z
}

// setWindows makes the clocks anew.
func (p *Plan) setWindows() {
	p.byDevice = false
	for _, w := range p.spec.Windows {
		p.byDevice = p.byDevice || w.OfDevice
	}
	p.zones, p.zoneNumbers = []zone{newZone(p.spec.Windows, "")}, map[string]uint32{}
	p.looked = Moment{}
}

// newZone returns the windows by the clock of devices in a time zone, which may be empty. A
// window that cannot be read never opens.
func newZone(windows []Window, name string) (z zone) {
	for _, w := range windows {
		at := w.TimeZone
		if w.OfDevice && name != "" {
			at = name
		}
		if times, err := (&score.Schedule{Cron: w.Cron, TimeZone: at}).Times(); err == nil {
			z.windows = append(z.windows, opening{times, w.Duration})
		}
	}
	return z
}

// clockWasSet reports whether the wall clock was set, which windows open by, since they were looked
// at.
func (p *Plan) clockWasSet(now Moment) bool {
	return len(p.spec.Windows) > 0 && (now.Wall.Sub(p.looked.Wall)-(now.Elapsed-p.looked.Elapsed)).Abs() > time.Second
}

// lookAtWindows says which are open.
func (p *Plan) lookAtWindows(at Moment) {
	now, set := at.Wall, p.clockWasSet(at)
	p.looked = at
	for i := range p.zones {
		z := &p.zones[i]
		if !set && !z.until.IsZero() && now.Before(z.until) {
			continue
		}
		z.open, z.until = len(p.spec.Windows) == 0, time.Time{}
		for _, w := range z.windows {
			open, until := w.open(now)
			z.open = z.open || open
			if z.until.IsZero() || !until.IsZero() && until.Before(z.until) {
				z.until = until
			}
		}
	}
}

// nextWindow is when a window opens or closes next, for those who wait for one; zero for never.
func (p *Plan) nextWindow() (at time.Time) {
	for i := range p.classes {
		c := &p.classes[i]
		z := &p.zones[c.zone]
		if c.counts[statusWaiting]+c.toLeave+len(p.repeated) > 0 && !z.until.IsZero() && (at.IsZero() || z.until.Before(at)) {
			at = z.until
		}
	}
	return at
}
